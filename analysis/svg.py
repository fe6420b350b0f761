"""One look for all figures, and matplotlib figures as inline SVG that is equal to the byte."""

import io
import re
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision; arms also differ in their markers.
INK, QUIET, FAINT = "#222222", "#6b6b6b", "#c9c9c9"
CONTROL, WINNER, OTHER = "#d55e00", "#0072b2", "#7d8a94"
CONTROL_MARK, WINNER_MARK, OTHER_MARK = "D", "*", "o"

STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial", "sans-serif"],
    "font.size": 9.5,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "axes.grid": False,
}


def new_figure(
    width: float, height: float, *, rows: int = 1, columns: int = 1, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` by `height` inches, and its axes in reading order."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, [axis for row in axes for axis in row]


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Inline SVG whose ids start with `name`, so that several fit into one page.

    Text stays text; metadata, sizes and the XML prologue go, so that the page decides the width.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = f'<svg role="img" aria-label="{escape(description)}"'
    return text.replace("<svg", label, 1).strip()
