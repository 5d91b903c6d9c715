"""HTML helpers that return `markupsafe.Markup`: every other value is escaped where it enters an element.

A page is one file that makes no request: its Content-Security-Policy allows the hashes of its own style and script and
nothing else, so that markup inside a model's answer is shown and never run. A page holds no times and no random ids:
the same inputs give the same bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

TEMPLATE = "page.html.j2"  # beside this file
# Characters from which a cell counts as prose and may wrap. The widest figure, a mean with its interval, is Markup.
LONG = 36
NONE = Markup("")


def text(value: Any) -> Markup:
    """Any value as text of a page; Markup passes through."""
    return escape(value)


def join(*parts: Any) -> Markup:
    """The parts one after the other, each escaped unless it is Markup."""
    return NONE.join(parts)


def el(tag: str, *children: Any, **attributes: Any) -> Markup:
    """One element. `class_` becomes class, `stroke_width` becomes stroke-width; None leaves an attribute out."""
    pairs = []
    for key, value in attributes.items():
        if value is not None:
            name = key.rstrip("_").replace("_", "-")
            # str: markup in an attribute is text, too.
            pairs.append(f' {name}="{escape(str(value))}"')
    return Markup(f"<{tag}{''.join(pairs)}>{join(*children)}</{tag}>")


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], **attributes: Any) -> Markup:
    """A table whose first column holds row headings; on a narrow screen it scrolls sideways inside its own box."""
    cells = [join(el("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows]
    top = el("thead", el("tr", *(el("th", cell, scope="col") for cell in head)))
    body = el("tbody", *(el("tr", cell) for cell in cells))
    return el("div", el("table", top, body, **attributes), class_="scroll")


def _cell(value: Any) -> Markup:
    """A cell; the class `long` lets prose wrap, figures stay on one line."""
    return el("td", value, class_="long" if not isinstance(value, Markup) and len(str(value)) > LONG else None)


def fold(title: Any, *content: Any) -> Markup:
    """Content that is hidden until the reader opens its title."""
    return el("details", el("summary", title), *content)


def data(value: Any, name: str) -> Markup:
    """JSON for the script of the page. `<` and `>` are written as escapes: no text can close the element."""
    raw = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        raw = raw.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{name}">{raw}</script>')


def _hash(source: str) -> str:
    """A source of a Content-Security-Policy that allows exactly this inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@functools.cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    ).get_template(TEMPLATE)


def page(title: str, body: Markup, style: str, script: str, connect: str = "'none'") -> str:
    """A whole document that sends requests to `connect` only and runs `script` only.

    ValueError for a style or script that holds "</", which would end its element.
    """
    for source in (style, script):
        if "</" in source:
            raise ValueError("a style or script that holds '</' would end early")
    rules = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "base-uri 'none'",
        f"connect-src {connect}",
        "form-action 'none'",
    ]
    # Markup: style and script are the project's own files, and an escape would change their hash.
    return _template().render(
        policy=Markup("; ".join(rules)), title=title, style=Markup(style), body=body, script=Markup(script)
    )
