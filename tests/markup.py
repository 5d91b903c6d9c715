"""Tables of a page as text, and a state of the project that holds some metrics."""

from __future__ import annotations

import html
import re
from typing import Any

from anneal.history.revision import Snapshot


def state(params: dict[str, Any] | None = None, **metrics: Any) -> Snapshot:
    return Snapshot("here", "", metrics, params or {})


def plain(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def rows(markup: str) -> list[list[str]]:
    """The rows of all tables, heads too."""
    found = re.findall(r"<tr>(.*?)</tr>", markup, re.S)
    return [[plain(cell) for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.S)] for row in found]
