"""The demo's figure as SVG, made of standard-library XML so that a plain installation can draw it."""

from __future__ import annotations

from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

_BINS = 64
_SIDE = 340
_INK, _FAINT = "#334155", "#cbd5e1"
_EXPERT_COLORS = ("#0d9488", "#4f46e5", "#ea580c", "#be185d", "#65a30d", "#0369a1")


class Panel(NamedTuple):
    """A square plot: its corner in pixels and one range of values that both axes share."""

    left: float
    top: float
    low: float
    high: float

    def x(self, value: float) -> float:
        """Pixels from the left edge of the figure."""
        return round(self.left + _SIDE * (value - self.low) / (self.high - self.low), 2)

    def y(self, value: float) -> float:
        """Pixels from the top edge of the figure."""
        return round(self.top + _SIDE * (self.high - value) / (self.high - self.low), 2)


def draw_demo_figure(observed: Array, predicted: Array, true_coef: Array, fitted_coef: Array) -> str:
    """Draw held-out predictions and recovered experts side by side.

    Parameters
    ----------
    observed, predicted : ndarray of shape (n,)
        Responses and their predictions; shown as a density.
    true_coef, fitted_coef : ndarray of shape (K, q)
        Coefficients of the experts, row k of the one being the same expert as row k of the other.

    Returns
    -------
    str
        An SVG document.
    """
    figure = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": "0 0 880 460",
            "font-family": "Helvetica, sans-serif",
        },
    )
    _shape(figure, "rect", width=880, height=460, fill="#ffffff")
    density = Panel(70, 50, *_shared_range(observed, predicted))
    _frame(figure, density, "Held-out rows", "observed y", "predicted y")
    _add_density(figure, density, observed, predicted)
    experts = Panel(510, 50, *_shared_range(true_coef, fitted_coef))
    _frame(figure, experts, "Coefficients of the experts", "truth", "fitted")
    _add_experts(figure, experts, true_coef, fitted_coef)
    ElementTree.indent(figure)
    return ElementTree.tostring(figure, encoding="unicode", xml_declaration=True)


def _shape(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: Any) -> None:
    named = {name.replace("_", "-"): str(value) for name, value in attributes.items()}
    ElementTree.SubElement(parent, tag, named).text = text


def _shared_range(a: Array, b: Array) -> tuple[float, float]:
    low, high = float(min(a.min(), b.min())), float(max(a.max(), b.max()))
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between the two: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10((high - low) / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 6)
    return [float(tick) for tick in np.arange(np.ceil(low / step), high / step) * step]


def _frame(figure: ElementTree.Element, panel: Panel, title: str, x_label: str, y_label: str) -> None:
    middle, bottom = panel.left + _SIDE / 2, panel.top + _SIDE
    for tick in _ticks(panel.low, panel.high):
        small = {"fill": _INK, "font_size": 11}
        _shape(figure, "path", d=f"M{panel.x(tick)} {bottom}v5", stroke=_INK)
        _shape(figure, "text", f"{tick:g}", x=panel.x(tick), y=bottom + 18, text_anchor="middle", **small)
        _shape(figure, "path", d=f"M{panel.left} {panel.y(tick)}h-5", stroke=_INK)
        _shape(figure, "text", f"{tick:g}", x=panel.left - 8, y=panel.y(tick) + 4, text_anchor="end", **small)
    _shape(figure, "rect", x=panel.left, y=panel.top, width=_SIDE, height=_SIDE, fill="none", stroke=_FAINT)
    ends = f"M{panel.x(panel.low)} {panel.y(panel.low)}L{panel.x(panel.high)} {panel.y(panel.high)}"
    _shape(figure, "path", d=ends, stroke=_FAINT, stroke_width=1.5)
    centred = {"fill": _INK, "text_anchor": "middle"}
    _shape(figure, "text", title, x=middle, y=panel.top - 16, font_size=16, **centred)
    _shape(figure, "text", x_label, x=middle, y=bottom + 40, font_size=13, **centred)
    turned = f"translate({panel.left - 48} {panel.top + _SIDE / 2}) rotate(-90)"
    _shape(figure, "text", y_label, transform=turned, font_size=13, **centred)


def _add_density(figure: ElementTree.Element, panel: Panel, observed: Array, predicted: Array) -> None:
    edges = np.linspace(panel.low, panel.high, _BINS + 1)
    counts = np.histogram2d(observed, predicted, bins=(edges, edges))[0]
    # A logarithmic scale: single rows stay visible beside cells of thousands.
    opacity = np.log1p(counts) / np.log1p(max(counts.max(), 1.0))
    cells = ElementTree.SubElement(figure, "g", {"fill": "#4f46e5"})
    size = round(_SIDE / _BINS, 2)
    for i, j in np.argwhere(counts > 0):
        x, y = panel.x(float(edges[i])), panel.y(float(edges[j + 1]))
        _shape(cells, "rect", x=x, y=y, width=size, height=size, fill_opacity=round(float(opacity[i, j]), 2))


def _add_experts(figure: ElementTree.Element, panel: Panel, true_coef: Array, fitted_coef: Array) -> None:
    for k, (truth, fitted) in enumerate(zip(true_coef, fitted_coef, strict=True)):
        color = _EXPERT_COLORS[k % len(_EXPERT_COLORS)]
        points = ElementTree.SubElement(figure, "g", {"fill": color, "fill-opacity": "0.75"})
        for x, y in zip(truth, fitted, strict=True):
            _shape(points, "circle", cx=panel.x(float(x)), cy=panel.y(float(y)), r=4)
        top = panel.top + 20 + 19 * k
        _shape(points, "circle", cx=panel.left + 16, cy=top - 4, r=5)
        _shape(points, "text", f"expert {k}", x=panel.left + 28, y=top, font_size=12)
