"""HTML from small functions: everything is escaped unless it was built here; charts are inline SVG with a table twin.

A page is one file without a request: its Content-Security-Policy allows the hash of its own style and script and
nothing else, so that a model's answer that holds markup is shown, never run. No times, no random ids: same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from typing import Any

LONG = 36  # characters of a cell that are words


class Safe(str):
    """Markup that is already escaped."""

    __slots__ = ()


NONE = Safe("")


def text(value: Any) -> Safe:
    """Any value as text of a page."""
    return value if isinstance(value, Safe) else Safe(html.escape(str(value)))


def join(*parts: Any) -> Safe:
    return Safe("".join(text(part) for part in parts))


def el(tag: str, *children: Any, **attributes: Any) -> Safe:
    """One element; `class_` is class, `stroke_width` is stroke-width, None leaves an attribute out."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    pairs = (f' {names[key]}="{html.escape(str(value))}"' for key, value in attributes.items() if value is not None)
    return Safe(f"<{tag}{''.join(pairs)}>{join(*children)}</{tag}>")


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], **attributes: Any) -> Safe:
    """A table whose first column names the row; it scrolls sideways by itself on a narrow screen."""
    cells = [join(el("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows]
    top = el("thead", el("tr", *(el("th", cell, scope="col") for cell in head)))
    body = el("tbody", *(el("tr", cell) for cell in cells))
    return el("div", el("table", top, body, **attributes), class_="scroll")


def _cell(value: Any) -> Safe:
    """Words may break over lines, numbers may not."""
    return el("td", value, class_="long" if not isinstance(value, Safe) and len(str(value)) > LONG else None)


def fold(title: Any, *content: Any) -> Safe:
    return el("details", el("summary", title), *content)


def data(value: Any, name: str) -> Safe:
    """JSON for the script of the page. `<` is written as an escape: no text can close the element or open another."""
    raw = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        raw = raw.replace(sign, f"\\u{ord(sign):04x}")
    return Safe(f'<script type="application/json" id="{name}">{raw}</script>')


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def page(title: str, body: Safe, style: str, script: str, connect: str = "'none'") -> str:
    """A whole document that asks for nothing (but of `connect`) and runs nothing but `script`."""
    for source in (style, script):
        if "</" in source:
            raise ValueError("a style or script that holds '</' would end early")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    policy += f"; connect-src {connect}"
    head = join(
        Safe('<meta charset="utf-8">'),
        Safe(f'<meta http-equiv="Content-Security-Policy" content="{policy}; form-action \'none\'">'),
        Safe('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Safe('<meta name="color-scheme" content="light dark">'),
        el("title", title),
        Safe(f"<style>{style}</style>"),
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n<script>{script}</script></body></html>\n'
    )
