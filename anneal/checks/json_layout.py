"""A text that holds JSON with boxes on a page: read strictly, found inside prose, mended, measured.

Only what is JSON from its first character to its last counts as valid. An object found inside other words, or one that
was mended, is told apart, so that a repair never makes a model look better than it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal, NamedTuple, NoReturn

from anneal.checks.facts import strings
from anneal.errors import UserError
from anneal.records import Record

Json = dict[str, Any] | list[Any]
Element = dict[str, Any]
How = Literal["strict", "extracted", "repaired", "none"]

SIDES = ("x", "y", "w", "h")
OVERLAP = 0.1  # share of the smaller box from which two boxes cover each other; touching edges and rounding stay below
_ROUNDING = 1e-9  # 0.7 + 0.3 may be a last bit over 1
_SHOWN = 120  # characters of a message: a schema error quotes the whole value
_DEEPEST = 50  # lists and objects inside each other; repr and json.dumps of a value recurse as deep as it goes
_FAR = 1e6  # a coordinate beyond this is no place: the sum of a huge int and a float does not even exist


class Read(NamedTuple):
    """What was read of a text, and how; `value` is None where `how` is none."""

    value: Json | None
    how: How


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # Which of two values holds differs from parser to parser.
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)


def _inner(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def parse(text: str) -> Json:
    """The object or list that the whole text is. ValueError for anything else: NaN, a key that stands twice, a word."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict | list):
        raise ValueError("neither an object nor a list")
    level, depth = [value], 0
    while level := [part for outer in level for part in _inner(outer)]:
        if (depth := depth + 1) > _DEEPEST:
            raise ValueError("nested too deep")
    return value


def strict(text: str) -> Json | None:
    """The same, or None."""
    try:
        return parse(text)
    except ValueError:
        return None


def extract(text: str) -> str | None:
    """The first balanced object of a text that is JSON, as it stands there; None where there is none.

    A brace inside a string closes nothing, and prose in braces, as in `{name}`, is passed over.
    """
    start = text.find("{")
    while start >= 0:
        try:
            found = text[start : _DECODER.raw_decode(text, start)[1]]
            parse(found)
            return found
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
    return None


def repair(text: str) -> Json | None:
    """What json-repair makes of the text from its first brace on; None where that holds nothing."""
    import json_repair

    start = text.find("{")
    if start < 0:
        return None
    try:
        # What it returns may hold NaN, which is no JSON either.
        return strict(json.dumps(json_repair.loads(text[start:]), ensure_ascii=False)) or None
    except Exception:  # on random pieces of JSON it trips over its own assertions, too
        return None


def read(text: str) -> Read:
    """The JSON of a text by the first way that works: as it is, found inside other words, mended."""
    if (value := strict(text)) is not None:
        return Read(value, "strict")
    # Of a broken text the first whole object is often an inner one; mending may bring back the one around it.
    if (found := extract(text)) is not None and text.startswith(found, text.find("{")):
        return Read(parse(found), "extracted")
    if (value := repair(text)) is not None:
        return Read(value, "repaired")
    return Read(parse(found), "extracted") if found is not None else Read(None, "none")


def count(texts: Sequence[str]) -> dict[str, int]:
    """How many texts were read in which way; they add up to the number of texts."""
    found = Counter(read(text).how for text in texts)
    return {how: found[how] for how in ("strict", "extracted", "repaired", "none")}


@lru_cache(maxsize=4)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator, SchemaError  # type: ignore[import-untyped]

    try:
        Draft202012Validator.check_schema(json.loads(schema))
    except SchemaError as err:
        raise UserError(
            f"schema.json: {err.json_path}: {err.message[:_SHOWN]}; it must be JSON Schema 2020-12"
        ) from None
    return Draft202012Validator(json.loads(schema))


def schema_errors(text: str, schema: dict[str, Any]) -> list[str]:
    """Where a text breaks a JSON Schema (draft 2020-12), `place: message` in the order of places; [] if nowhere."""
    value = strict(text)
    if value is None:
        return ["not JSON"]
    errors = _validator(json.dumps(schema, sort_keys=True)).iter_errors(value)
    return sorted(f"{error.json_path}: {error.message[:_SHOWN]}" for error in errors)


def _boxed(value: Any) -> bool:
    numbers = [value.get(side) for side in SIDES] if isinstance(value, dict) else [None]
    return all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < _FAR for n in numbers)


def elements(value: Any) -> list[Element]:
    """The first list, under any key and at any depth, whose items all have the numbers x, y, w and h; [] without."""
    if isinstance(value, list) and value and all(map(_boxed, value)):
        return list(value)
    return next((found for part in _inner(value) if (found := elements(part))), [])


def covered(one: Element, other: Element) -> float:
    """Share of the smaller box that both cover; 0 for a box without area."""
    across = [
        min(one[at] + one[size], other[at] + other[size]) - max(one[at], other[at])
        for at, size in (("x", "w"), ("y", "h"))
    ]
    smaller = min(one["w"] * one["h"], other["w"] * other["h"])
    return float(max(0.0, across[0]) * max(0.0, across[1]) / smaller) if smaller > 0 else 0.0


def _outside(box: Element) -> bool:
    low = min(box[side] for side in SIDES)
    return bool(low < 0 or box["x"] + box["w"] > 1 + _ROUNDING or box["y"] + box["h"] > 1 + _ROUNDING)


def semantic(text: str, record: Record) -> list[str]:
    """What a schema cannot say: boxes within the page, clear of each other, their words taken from the record's facts.

    The page is 1 wide and 1 high. An element's `text` must stand, letter for letter, in one of the strings of the
    facts; which fact that is does not matter. Taste, contrast and reading order are out of its sight.
    """
    value = strict(text)
    if value is None:
        return ["not JSON"]
    boxes = elements(value)
    if not boxes:
        return ["no list of boxes"]
    hits = [f"element {place}: outside the page" for place, box in enumerate(boxes) if _outside(box)]
    for (i, one), (j, other) in combinations(enumerate(boxes), 2):
        if (share := covered(one, other)) > OVERLAP:
            hits.append(f"elements {i} and {j}: {share:.0%} of the smaller one covered")
    sources = strings(record["facts"])
    for place, box in enumerate(boxes):
        words = box.get("text")
        if isinstance(words, str) and not any(words in source for source in sources):
            hits.append(f"element {place}: {words[:_SHOWN]!r} is not in the source")
    return hits
