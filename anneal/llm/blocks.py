"""Text inside delimiters: tagged blocks of a prompt, and the code fence around a reply."""

from __future__ import annotations

import re

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.S)


def block(prompt: str, tag: str) -> str | None:
    """The text between `<tag>` and `</tag>`, each alone on its line; None where there is no such block."""
    match = re.search(rf"^<{tag}>\n(.*?)\n?^</{tag}>$", prompt, re.M | re.S)
    return match[1] if match else None


def unfenced(reply: str) -> str:
    """A reply without the code fence around all of it; the reply itself where there is none."""
    match = _FENCE.match(reply.strip())
    return match[1] if match else reply
