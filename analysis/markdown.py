"""The report's page as Markdown, for a pull request or a notebook: all but the drawings."""

import re
from html.parser import HTMLParser

HEADINGS = {"h1": "#", "h2": "##", "h3": "###"}
SKIPPED = ("svg", "style", "title")
SPECIAL = re.compile(r"([\\`*_\[\]|<>])")


def markdown(page: str) -> str:
    r"""The headings, texts, lists and tables of one of our pages, in GitHub's Markdown.

    >>> markdown("<h2>Verdict</h2><ul><li>A beats B_1.</li></ul>")
    '## Verdict\n\n* A beats B\\_1.\n'
    """
    reader = _Reader()
    reader.feed(page)
    blocks = "\n\n".join("\n".join(block) for block in reader.blocks if block)
    return f"{blocks}\n"


class _Reader(HTMLParser):
    """Collects blocks of lines."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[list[str]] = []
        self._text: list[str] = []
        self._row: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SKIPPED:
            self._skipped += 1
        elif tag in ("ul", "table"):
            self.blocks.append([])
        elif tag == "tr":
            self._row = []
        self._text = []

    def handle_endtag(self, tag: str) -> None:
        text = " ".join("".join(self._text).split())
        if tag in SKIPPED:
            self._skipped -= 1
        elif tag in HEADINGS:
            self.blocks.append([f"{HEADINGS[tag]} {text}"])
        elif tag in ("p", "figcaption") and text:
            self.blocks.append([text])
        elif tag == "li":
            self.blocks[-1].append(f"* {text}")
        elif tag in ("td", "th"):
            self._row.append(text)
        elif tag == "tr":
            self.blocks[-1].append(f"| {' | '.join(self._row)} |")
        elif tag == "thead":
            self.blocks[-1].append("|---" * len(self._row) + "|")
        self._text = []

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text.append(SPECIAL.sub(r"\\\1", data))
