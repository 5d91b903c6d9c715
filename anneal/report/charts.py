"""Charts as inline SVG with a hint for each value; the tables beside them hold the same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from anneal.html import el, join

# In user units of the SVG; the page scales a chart.
WIDTH = 480
LABELS = 44  # the margin for the labels of the vertical axis
DOTS = 30  # a line of fewer points shows each of them


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that span low..high: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    # The factors 0.999 and 1e-9 absorb rounding errors of the division.
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A value beside its bar: counts as integers, others with two digits."""
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.2f}"


def _n(value: float) -> str:
    """A coordinate with one digit at most, so that every machine writes the same bytes."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _chart(title: str, height: float, *marks: Any, width: float = WIDTH) -> Markup:
    view = f"0 0 {_n(width)} {_n(height)}"
    return el("svg", el("title", title), *marks, viewBox=view, role="img", class_="chart")


def _text(x: float, y: float, value: Any, anchor: str = "start") -> Markup:
    return el("text", value, x=_n(x), y=_n(y), text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    return el("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), class_=name)


def legend(names: Sequence[str]) -> Markup:
    """The colour of each series."""
    return el("p", *(join(el("i", "", class_=f"key {name}"), name, " ") for name in names), class_="legend")


Bar = tuple[str, float | None, float | None, float | None]  # series, value, low, high


def bars(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], low: float, high: float) -> Markup:
    """Horizontal bars in groups, each with the whisker of its interval; a series without a value has no bar."""
    marks = []
    y = 4.0
    right = WIDTH - 40
    span = (right - 2) / (high - low)

    def at(value: float) -> float:
        return 2 + (min(max(value, low), high) - low) * span

    for label, rows in groups:
        marks.append(_text(2, y + 11, label))
        y += 16
        for name, value, bottom, top in rows:
            if value is not None:
                hint = f"{label}, {name}: {short(value)}"
                box = el("rect", el("title", hint), x="2", y=_n(y), width=_n(at(value) - 2), height="9", class_=name)
                marks += [box, _text(right + 4, y + 9, short(value))]
                if bottom is not None and top is not None:
                    marks.append(_line(at(bottom), y + 4.5, at(top), y + 4.5, "whisker"))
            y += 12
        y += 5
    return _chart(title, y, *marks)


def _frame(
    xs: list[float], ys: list[float], height: float, width: float = WIDTH
) -> tuple[list[Markup], float, float, float, float]:
    """Axes with round ticks: the marks, then the origin and scale (x0, dx, y0, dy) of both axes."""
    x0 = float(LABELS)
    y0 = height - 18
    dx = (width - LABELS - 16) / (xs[-1] - xs[0])
    dy = (y0 - 8) / (ys[-1] - ys[0])
    marks = []
    for y in ys:
        marks.append(_line(x0, y0 - (y - ys[0]) * dy, width - 16, y0 - (y - ys[0]) * dy, "grid"))
        marks.append(_text(x0 - 4, y0 - (y - ys[0]) * dy + 4, f"{y:g}", "end"))
    marks += [_text(x0 + (x - xs[0]) * dx, height - 3, f"{x:g}", "middle") for x in xs]
    return marks, x0, dx, y0, dy


Points = Mapping[str, Sequence[tuple[float, float]]]


def lines(title: str, series: Points, height: float = 220, width: float = WIDTH, share: bool = False) -> Markup:
    """One line per series through its (x, y) points; a single point is a dot. Shares are drawn on a scale of 0 to 1."""
    all_points = [point for points in series.values() for point in points]
    if not all_points:
        return Markup("")
    x_values, y_values = ([*column] for column in zip(*all_points, strict=True))
    xs = ticks(min(x_values), max(x_values), 6 if width == WIDTH else 3)
    ys = ticks(0, 1, 2) if share else ticks(min(y_values), max(y_values))
    marks, x0, dx, y0, dy = _frame(xs, ys, height, width)
    for name, points in series.items():
        path = " ".join(f"{_n(x0 + (x - xs[0]) * dx)},{_n(y0 - (y - ys[0]) * dy)}" for x, y in points)
        marks.append(el("polyline", points=path, class_=f"line {name}"))
        if len(points) < DOTS:
            dots = (p.split(",") for p in path.split())
            marks += [el("circle", cx=x, cy=y, r="2.5", class_=name) for x, y in dots]
    return join(_chart(title, height, *marks, width=width), legend(list(series)))


def histogram(title: str, edges: Sequence[float], counts: Mapping[str, Sequence[float]], height: float = 180) -> Markup:
    """Counts between edges, one series drawn over the other; `len(edges)` is one more than the counts."""
    ys = ticks(0, max([1.0, *(count for column in counts.values() for count in column)]))
    xs = ticks(edges[0], edges[-1], 6)
    marks, x0, dx, y0, dy = _frame(xs, ys, height)
    for name, column in counts.items():
        for low, high, count in zip(edges[:-1], edges[1:], column, strict=True):
            hint = el("title", f"{name}, {low:.3g} to {high:.3g}: {count:g}")
            place = {"x": _n(x0 + (low - xs[0]) * dx), "width": _n(max((high - low) * dx - 1, 0.5))}
            marks.append(el("rect", hint, y=_n(y0 - count * dy), height=_n(count * dy), class_=name, **place))
    return join(_chart(title, height, *marks), legend(list(counts)))
