"""JSON layouts, boxes on a page: strict parsing, extraction from prose, repair, schema and geometry checks.

A text is valid only if all of it is JSON, from its first character to its last. Extracted and repaired values are
counted apart, so that a repair never raises the measured quality of a model.
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
OVERLAP = 0.1  # two boxes overlap above this share of the smaller one; touching edges and rounding stay below
_ROUNDING = 1e-9  # tolerance of page edges: a sum such as 0.7 + 0.3 may exceed 1 by its last bit
_SHOWN = 120  # characters shown of a message: a schema error quotes the whole value
_DEEPEST = 50  # levels of nesting; repr and json.dumps recurse once per level
_FAR = 1e6  # larger coordinates are invalid: adding a huge int to a float raises OverflowError


class Read(NamedTuple):
    """A value parsed from a text, and the way it was parsed; `value` is None where `how` is "none"."""

    value: Json | None
    how: How


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    # Parsers differ in which value of a repeated key they keep.
    if len(members) < len(pairs):
        raise ValueError("a key stands there twice")
    return members


_DECODER = json.JSONDecoder(parse_constant=_reject_constant, object_pairs_hook=_unique_keys)


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def parse(text: str) -> Json:
    """Parse the whole text as a JSON object or list. Raises ValueError for anything else, NaN or a repeated key."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict | list):
        raise ValueError("neither an object nor a list")
    level, depth = [value], 0
    while level := [part for outer in level for part in _children(outer)]:
        if (depth := depth + 1) > _DEEPEST:
            raise ValueError("nested too deep")
    return value


def strict(text: str) -> Json | None:
    """Parse the whole text as a JSON object or list; None where it is neither."""
    try:
        return parse(text)
    except ValueError:
        return None


def extract(text: str) -> str | None:
    """Return the source of the first JSON object in a text; None where there is none.

    Braces inside strings are ignored, and prose in braces, as in `{name}`, is skipped.
    """
    start = text.find("{")
    while start >= 0:
        try:
            source = text[start : _DECODER.raw_decode(text, start)[1]]
            parse(source)
            return source
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
    return None


def repair(text: str) -> Json | None:
    """Repair the text from its first brace on with json-repair; None where the result is empty or no JSON."""
    import json_repair

    start = text.find("{")
    if start < 0:
        return None
    try:
        # The repaired value may hold NaN, which strict parsing rejects.
        return strict(json.dumps(json_repair.loads(text[start:]), ensure_ascii=False)) or None
    except Exception:  # json-repair also raises AssertionError on random pieces of JSON
        return None


def read(text: str) -> Read:
    """Read the JSON of a text by the first way that succeeds: strict, extracted, repaired.

    An extracted object counts before a repair only where it starts at the first brace of the text.
    """
    if (value := strict(text)) is not None:
        return Read(value, "strict")
    # The first complete object of a broken text is often an inner one; a repair may recover the object around it.
    source = extract(text)
    if source is not None and text.startswith(source, text.find("{")):
        return Read(parse(source), "extracted")
    if (value := repair(text)) is not None:
        return Read(value, "repaired")
    return Read(parse(source), "extracted") if source is not None else Read(None, "none")


def count(texts: Sequence[str]) -> dict[str, int]:
    """Count the texts by the way they were read; the counts add up to the number of texts."""
    counts = Counter(read(text).how for text in texts)
    return {how: counts[how] for how in ("strict", "extracted", "repaired", "none")}


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
    """Violations of a JSON Schema (draft 2020-12), as `path: message`, sorted; [] where the text conforms.

    Raises UserError for an invalid schema.
    """
    value = strict(text)
    if value is None:
        return ["not JSON"]
    errors = _validator(json.dumps(schema, sort_keys=True)).iter_errors(value)
    return sorted(f"{error.json_path}: {error.message[:_SHOWN]}" for error in errors)


def _is_box(value: Any) -> bool:
    numbers = [value.get(side) for side in SIDES] if isinstance(value, dict) else [None]
    return all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < _FAR for n in numbers)


def elements(value: Any) -> list[Element]:
    """Find the first list, at any key and depth, whose items all have the numbers x, y, w and h; [] without one."""
    if isinstance(value, list) and value and all(map(_is_box, value)):
        return list(value)
    for child in _children(value):
        if boxes := elements(child):
            return boxes
    return []


def covered(one: Element, other: Element) -> float:
    """Area of the intersection as a share of the smaller box, 0 to 1; 0 for a box without area."""
    extents = [  # of the intersection, in x and y; negative where the boxes are apart
        min(one[at] + one[size], other[at] + other[size]) - max(one[at], other[at])
        for at, size in (("x", "w"), ("y", "h"))
    ]
    smaller = min(one["w"] * one["h"], other["w"] * other["h"])
    return float(max(0.0, extents[0]) * max(0.0, extents[1]) / smaller) if smaller > 0 else 0.0


def _outside(box: Element) -> bool:
    low = min(box[side] for side in SIDES)
    return bool(low < 0 or box["x"] + box["w"] > 1 + _ROUNDING or box["y"] + box["h"] > 1 + _ROUNDING)


def semantic(text: str, record: Record) -> list[str]:
    """Hits that no schema expresses: boxes outside the page, overlapping boxes, texts that are not in the facts.

    The page is 1 wide and 1 high. The `text` of an element must be a substring of one of the strings of the facts, of
    whichever fact. Style, contrast and reading order are not checked.
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
        element_text = box.get("text")
        if isinstance(element_text, str) and not any(element_text in source for source in sources):
            hits.append(f"element {place}: {element_text[:_SHOWN]!r} is not in the source")
    return hits
