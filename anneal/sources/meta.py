"""What is told about a text beside its words: front matter and meta.json, as title, date, author and tags.

Beside `essay.md` there may be `essay.meta.json`, and in any folder a `meta.json` that speaks for all files in and under
it; the file's own front matter (YAML between ---, TOML between +++) stands between the two. The nearest word counts:
essay.meta.json, front matter, meta.json of the nearest folder, of the next one up. Other keys are the user's own.
"""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

from anneal.params import Refusal

Meta = dict[str, Any]  # title, date (YYYY-MM-DD), author: text; tags: list of text; only those that are told

AUTHOR = "author"  # of all the keys the one that styles are told apart by, and a fact of every record
KEYS = ("title", "date", AUTHOR, "tags")

_FENCES = {"---": "YAML", "+++": "TOML"}


def words(path: Path) -> str:
    """The text of a file, with \\n at every line end, as the parser of Markdown counts lines."""
    raw = path.read_bytes()
    try:
        return re.sub(r"\r\n?", "\n", raw.decode("utf-8-sig"))
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise Refusal(f"{path}:{line}: not UTF-8 at byte {err.start}; save the file as UTF-8") from None


def _object(path: Path) -> Meta:
    try:
        found = json.loads(words(path))
    except json.JSONDecodeError as err:
        raise Refusal(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    if not isinstance(found, dict):
        raise Refusal(f"{path}:1:1: expected an object of {', '.join(KEYS)}, got {type(found).__name__}")
    return found


def _checked(path: Path, told: Meta) -> Meta:
    """The known keys, as text; refuses the file that holds another type, and a date that is none."""
    found: Meta = {}
    for key in KEYS:
        value = told.get(key)
        if value in (None, "", []):
            continue
        if key == "tags":
            fits = isinstance(value, list) and all(isinstance(tag, str) for tag in value)
        else:
            value = value.isoformat() if isinstance(value, datetime.date) else value
            fits = isinstance(value, str)
        if not fits:
            raise Refusal(f"{path}: {key}: expected {'a list of words' if key == 'tags' else 'text'}, got {value!r}")
        if key == "date":
            try:
                value = datetime.date.fromisoformat(value[:10]).isoformat()
            except ValueError:
                raise Refusal(f"{path}: date: expected YYYY-MM-DD, got {value!r}") from None
        found[key] = value
    return found


def front(path: Path, text: str) -> tuple[Meta, int]:
    """Front matter and the number of lines that it takes; a rule at the top of a text is none."""
    lines = text.split("\n")
    mark = lines[0].rstrip()
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == mark), 0)
    if mark not in _FENCES or not end:
        return {}, 0
    body = "\n".join(lines[1:end])
    try:
        found: Any
        if mark == "+++":
            import tomllib

            found = tomllib.loads(body)
        else:
            from ruamel.yaml import YAML

            found = YAML(typ="safe", pure=True).load(body)
    except Exception as err:  # two libraries, each with a family of its own; all of them say where
        place = getattr(getattr(err, "problem_mark", None), "line", None)
        reason = str(getattr(err, "problem", None) or err).split("\n")[0]
        raise Refusal(
            f"{path}:{1 if place is None else place + 2}: front matter is not {_FENCES[mark]}: {reason}"
        ) from None
    if found is None or isinstance(found, dict):
        return _checked(path, found or {}), end + 1
    return {}, 0


def beside(path: Path) -> Meta:
    """What a .json file tells, and nothing where there is none."""
    return _checked(path, _object(path)) if path.is_file() else {}
