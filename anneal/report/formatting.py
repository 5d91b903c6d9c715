"""Formats numbers for the report: shares in per cent, means with their interval, keys with their value."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import flat
from anneal.html import el
from anneal.stats import paired


def figure(value: Any, share: bool = False) -> str:
    """A number as text: shares in per cent, counts as integers, others with two to three digits; – for None."""
    if value is None or isinstance(value, bool | str):
        return "–" if value is None else str(value)
    if isinstance(value, list | dict):
        plain = isinstance(value, list) and not any(isinstance(part, list | dict) for part in value)
        return (", ".join(map(str, value)) or "–") if plain else f"{len(value)} entries"
    if share:
        return f"{100 * value:.1f}%"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def signed(value: float | None) -> str:
    """A difference with its sign; – for None."""
    return "–" if value is None else f"{value:+.2f}"


def span(value: Any, low: Any, high: Any, share: bool = False) -> Markup:
    """A mean, followed by its interval in small type."""
    if low is None or high is None:
        return html.text(figure(value, share))
    if share:
        # An interval from the normal approximation can leave 0 to 1; a share cannot.
        low, high = max(low, 0.0), min(high, 1.0)
    ends = f" [{figure(low, share)}, {figure(high, share)}]".replace("%,", ",")
    return html.join(figure(value, share), el("span", ends, class_="interval"))


def estimate_text(metric: Any, share: bool = True) -> str:
    """A mean with its interval as plain text, for a sentence."""
    mean, low, high = ((metric or {}).get(key) for key in ("mean", "low", "high"))
    if low is None or high is None:
        return figure(mean, share)
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{figure(mean, share)} [{figure(low, share)}, {figure(high, share)}]".replace("%,", ",")


def p_text(p: float | None) -> str:
    """A p-value for a sentence; none is printed as 0."""
    return "no p" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def estimate(metric: Any, share: bool = True) -> Markup:
    """A mean with its interval as a cell; `metric` may be a bare number."""
    if isinstance(metric, dict):
        return span(metric.get("mean"), metric.get("low"), metric.get("high"), share)
    return html.text(figure(metric, share))


def change(difference: Any, share: bool = False) -> Markup:
    """A paired difference with its interval, shares in percentage points.

    ~ marks a difference that is not significant; MDE, the minimum detectable effect at 80% power, follows it.
    """
    mean, low, high = ((difference or {}).get(key) for key in ("mean", "low", "high"))
    if mean is None:
        return html.text("–")
    texts = [f"{100 * value:+.1f}" if share else signed(value) for value in (mean, low, high) if value is not None]
    if low is None or high is None:
        return html.text(texts[0])
    p = difference.get("p_holm", difference.get("p"))
    mark = "~ " if low <= 0 <= high or (p is not None and p >= paired.SURE) else ""
    # An open difference does not prove that there is none, so the detectable one stands beside it.
    detectable = difference.get("detectable") if mark else None
    power = ""
    if detectable:
        power = f" MDE {100 * detectable:.1f}" if share else f" MDE {figure(detectable)}"
    return html.join(mark, texts[0], el("span", f" [{texts[1]}, {texts[2]}]{power}", class_="interval"))


def listing(value: Any) -> Markup:
    """Every value of a metrics file, nested keys joined by dots."""
    return html.table(["", "value"], [[key, figure(part)] for key, part in flat(value).items()], class_="words")
