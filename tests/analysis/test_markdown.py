from typing import Any

from analysis.markdown import markdown
from analysis.report import main
from analysis.table import load


def test_every_kind_of_piece_has_its_form() -> None:
    page = (
        "<html><head><title>t</title><style>a{}</style></head><body><h1>Study</h1>"
        "<p>One &amp; two\n lines.</p><svg><text>7</text></svg><figcaption>A drawing.</figcaption>"
        "<table><thead><tr><th>a</th><th>b|c</th></tr></thead>"
        "<tbody><tr><td>1</td><td></td></tr></tbody></table></body></html>"
    )
    assert markdown(page) == (
        "# Study\n\nOne & two lines.\n\nA drawing.\n\n| a | b\\|c |\n|---|---|\n| 1 |  |\n"
    )


def test_the_report_is_there_in_markdown_too(make_study: Any) -> None:
    study = make_study()
    assert main([str(study.folder)]) == 0
    text = (study.folder / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# first\n")
    assert "## Verdict" in text
    assert "<" not in text.replace("\\<", "")
    for name in load(study.folder).trials["name"]:
        assert f"| {name} |" in text
