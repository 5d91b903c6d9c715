"""Where the parts of a text end, sentences or the objects of a text that is JSON, and a further part among them."""

from __future__ import annotations

import re

END = re.compile(r"[。！？!?]+[”’」』）)]*|\.(?=\s|\Z)")
OBJECT = re.compile(r"\{[^{}]*\}")  # the innermost
_LATIN = re.compile(r"[\x21-\x7e]{2}")


def is_json(text: str) -> bool:
    return text[:1] in ("{", "[")


def ends(text: str) -> list[int]:
    """Where the parts of a text end: sentences, or the innermost objects of a text that is JSON."""
    return [found.end() for found in (OBJECT if is_json(text) else END).finditer(text)]


def put(text: str, at: int, part: str) -> str:
    """The text with a further part at one of its ends, joined the way its own parts are."""
    glue = "," if is_json(text) else " " if _LATIN.match(text[:at][-1:] + part[:1]) else ""
    return text[:at] + glue + part + text[at:]


def close(text: str) -> int:
    """The end before the last one: what is put there leaves the opening and the close what they are."""
    return (ends(text) or [len(text)])[-2:][0]
