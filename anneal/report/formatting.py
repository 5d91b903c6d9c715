"""Numbers as people read them: shares in per cent, means with their interval, keys with their value."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import flat
from anneal.html import el
from anneal.stats import paired


def figure(value: Any, share: bool = False) -> str:
    """A number as people read it: shares in per cent, counts whole, the rest with three digits; an absent one is –."""
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
    return "–" if value is None else f"{value:+.2f}"


def span(value: Any, low: Any, high: Any, share: bool = False) -> Markup:
    """A mean with its interval behind it, smaller."""
    if low is None or high is None:
        return html.text(figure(value, share))
    if share:
        # The interval of a mean knows no bounds; that of a share does.
        low, high = max(low, 0.0), min(high, 1.0)
    ends = f" [{figure(low, share)}, {figure(high, share)}]".replace("%,", ",")
    return html.join(figure(value, share), el("span", ends, class_="interval"))


def told(found: Any, share: bool = True) -> str:
    """A metric that is a mean with its interval, as words inside a sentence."""
    mean, low, high = ((found or {}).get(key) for key in ("mean", "low", "high"))
    if low is None or high is None:
        return figure(mean, share)
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{figure(mean, share)} [{figure(low, share)}, {figure(high, share)}]".replace("%,", ",")


def chance(p: float | None) -> str:
    """A p-value in a sentence; none is 0."""
    return "no p" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def estimate(found: Any, share: bool = True) -> Markup:
    """The same from a metric that is a mean with its interval, or a bare number."""
    if isinstance(found, dict):
        return span(found.get("mean"), found.get("low"), found.get("high"), share)
    return html.text(figure(found, share))


def change(found: Any, share: bool = False) -> Markup:
    """A paired difference with its interval, shares in points; ~ where none is shown, and what would have been."""
    mean, low, high = ((found or {}).get(key) for key in ("mean", "low", "high"))
    if mean is None:
        return html.text("–")
    told = [f"{100 * value:+.1f}" if share else signed(value) for value in (mean, low, high) if value is not None]
    if low is None or high is None:
        return html.text(told[0])
    p = found.get("p_holm", found.get("p"))
    same = "~ " if low <= 0 <= high or (p is not None and p >= paired.SURE) else ""
    seen = found.get("detectable") if same else None
    # What so many items would have found 4 times in 5: an open difference is no proof that there is none.
    least = f" finds {100 * seen:.1f}" if seen and share else f" finds {figure(seen)}" if seen else ""
    return html.join(same, told[0], el("span", f" [{told[1]}, {told[2]}]{least}", class_="interval"))


def listing(value: Any) -> Markup:
    """Every value of a metrics file, nested keys joined by dots."""
    return html.table(["", "value"], [[key, figure(found)] for key, found in flat(value).items()], class_="words")
