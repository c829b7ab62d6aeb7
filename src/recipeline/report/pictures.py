"""Figures as inline SVG: text stays text, the background is the page's, colours follow the reader's theme.

matplotlib writes fixed colours. The ones set here are marks that `_themed` replaces by CSS variables of the page, so that
axes, text and the colours of the default cycle turn with light and dark; colours that a figure names itself stay.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from recipeline.contracts import Figure

log = logging.getLogger("recipeline")

INK, GRID = "#0a0b0d", "#0a0b0e"
CYCLE = ("#2f6fed", "#e8590c", "#2b9a66", "#8e4ec6", "#b8860b", "#d6336c", "#1098ad", "#6b7280")
"""Colours of the light theme; the page knows the ones of the dark theme as --c0 … --c7."""
NAMED = {"#1f77b4": 0, "#ff7f0e": 1, "#2ca02c": 2, "#9467bd": 3, "#d62728": 5, "#e377c2": 5, "#17becf": 6, "#7f7f7f": 7, "#808080": 7}
"""`tab:blue` and its like, and `grey`: what figures name where they do not take the cycle."""

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "patch.edgecolor": "none",
    "savefig.facecolor": "none",
    "scatter.edgecolors": "none",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a column named "$price" is no formula
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.color": INK,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.6,
}

_COLOUR = re.compile(r"((?:stroke|fill): ?)(#[0-9a-f]{6})")
_IDENTITY = re.compile(r' id="[A-Za-z.0-9]+_\d+"')  # of groups; those of clip paths and markers have no underscore


def svg(figure: Figure, name: str, *, size: tuple[float, float] = (5.4, 3.7)) -> Markup:
    """The figure as an `<svg>` element, size in inches where the figure does not set its own; or the reason why it could not be drawn."""
    try:
        return _drawn(figure, name, size)
    except Exception as error:
        log.exception("figure %s could not be drawn", name)
        return Markup('<p class="flag">This figure could not be drawn: {}: {}</p>').format(type(error).__name__, error)


def _drawn(figure: Figure, name: str, size: tuple[float, float]) -> Markup:
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    # The salt makes the identifiers of clip paths and markers the same every time, and different between two figures of a page.
    style = {**STYLE, "axes.prop_cycle": cycler(color=CYCLE), "svg.hashsalt": f"recipeline-{name}"}
    with mpl.rc_context(style), warnings.catch_warnings():  # type: ignore[arg-type]
        # The reader's fonts show what the font that is measured with does not have.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", message=".*font does not.*")
        canvas = Canvas(figsize=size, layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.subplots()
        figure.draw(axes)
        _plain_numbers(canvas)
        for drawn in canvas.axes:
            if drawn.images:  # matplotlib draws the grid over images
                drawn.grid(visible=False)
        stream = io.StringIO()
        canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _themed(stream.getvalue(), figure.title)


def _plain_numbers(canvas: Any) -> None:
    """Powers of ten of a logarithmic axis as numbers: matplotlib writes them as formulas, which `text.parse_math` leaves as they are."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""  # it knows which of the small ticks have room for a label

    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter(Plain())
                axis.set_minor_formatter(Plain())


def _themed(text: str, title: str) -> Markup:
    """What matplotlib wrote, fit for a page: without prologue and fixed size, its marks as CSS variables."""
    head, _, body = text[text.index("<svg") :].partition(">")
    box = re.search(r'viewBox="[^"]+"', head)
    if box is None:
        raise ValueError("an SVG without viewBox")
    cycle = {**NAMED, **{colour: number for number, colour in enumerate(CYCLE)}}
    known = {INK: "var(--ink)", GRID: "var(--grid)", **{colour: f"var(--c{number})" for colour, number in cycle.items()}}

    def colour(found: re.Match[str]) -> str:
        kind, value = found.groups()
        if value == "#000000" and kind.startswith("stroke"):  # a black line ("k--") belongs to the page, black text on a tile does not
            return f"{kind}var(--ink)"
        return kind + known.get(value, value)

    body = _IDENTITY.sub("", _COLOUR.sub(colour, body))
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" aria-label="{escape(title)}">'
    return Markup(opening + body.strip())  # noqa: S704  # matplotlib escapes the text it writes


def wide(drawn: Markup) -> bool:
    """Whether a drawn figure wants the whole width of the page."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    return box is not None and float(box[1]) > 1.9 * float(box[2])
