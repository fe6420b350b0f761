"""HTML in pieces: every text escaped, nothing fetched, no script."""

from collections.abc import Iterable, Sequence
from html import escape


def section(title: str, body: str) -> str:
    """A section with a heading; nothing without a body."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def figure(drawn: tuple[str, str] | None) -> str:
    """A drawing with its caption below it."""
    if not drawn or not drawn[0]:
        return ""
    drawing, caption = drawn
    return (
        f'<figure>\n<div class="scroll">{drawing}</div>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )


def notes(texts: Iterable[str]) -> str:
    """Texts as a list."""
    lines = "".join(f"<li>{escape(text)}</li>\n" for text in texts)
    return f'<ul class="notes">\n{lines}</ul>\n' if lines else ""


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    texts: Sequence[int] = (),
    stopped: Sequence[bool] = (),
) -> str:
    """An escaped table; `numbers` and `texts` are columns, `stopped` the rows to show quietly."""
    kinds = {**dict.fromkeys(numbers, ' class="number"'), **dict.fromkeys(texts, ' class="text"')}
    head = "".join(f"<th{kinds.get(at, '')}>{escape(text)}</th>" for at, text in enumerate(heads))
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(
            f"<td{kinds.get(at, '')}>{escape(text)}</td>" for at, text in enumerate(row)
        )
        quiet = ' class="stopped"' if number < len(stopped) and stopped[number] else ""
        lines.append(f"<tr{quiet}>{cells}</tr>\n")
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(lines)}</tbody>\n</table></div>\n"
    )
