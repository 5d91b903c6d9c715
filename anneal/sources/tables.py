"""Reads user tables (CSV, JSON, JSON Lines or Parquet, by suffix); every row keeps its file and line.

Values are JSON: text, numbers, lists, objects, or None for an empty cell. Every error is a UserError of one line with
the file, the line or row, the column and the value.

Columns become the id, type, text, worse text and conversation turns of a record; the others are its facts.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from anneal import records
from anneal.errors import UserError
from anneal.params import Section

PlacedRows = list[tuple[str, records.Row]]  # the place of each row and its cells
# pandas stores a row number under this name; it would move the hash of every row behind an inserted one.
_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class Row:
    """One row; `place` is its file and line, or its file and number where the format has no lines."""

    place: str
    values: records.Row

    def _at(self, column: str, key: str) -> Any:
        if column in self.values:  # before the path: a column name may contain a dot
            return self.values[column]
        first, *parts = column.split(".")
        if first not in self.values:
            known = ", ".join(self.values) or "none"
            raise UserError(f"{self.place}: no column {first!r}; columns: {known}; name another in {key}")
        value, passed = self.values[first], first
        for part in parts:
            try:
                value = value[int(part)] if isinstance(value, list) else value[part]
            except (KeyError, IndexError, TypeError, ValueError):
                held = ", ".join(value) if isinstance(value, dict) else str(value)[:40]
                raise UserError(f"{self.place}: {passed}: no {part!r} in it; it holds: {held}; mend {key}") from None
            passed += f".{part}"
        return value

    def need(self, column: str, key: str) -> Any:
        """The value of a column, or at a path into one (`chosen.value`, `turns.0`), which params `key` asks for.

        Refuses what is missing or empty here.
        """
        value = self._at(column, key)
        if value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
            raise UserError(f"{self.place}: {column}: {value!r} is empty; fill it ({key}) or take the row out")
        return value

    def digest(self) -> str:
        return digest(self.values)


def digest(values: records.Row) -> str:
    """A name made of the content alone: neither order, nor format, nor a cell left empty changes it."""
    filled = {column: value for column, value in values.items() if value not in (None, "")}
    line = json.dumps(filled, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(line.encode(), digest_size=8).hexdigest()


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")  # spreadsheets write a byte order mark, which would become part of a name
    except UnicodeDecodeError as err:
        # The codec counts from behind the mark that it has taken off.
        start = err.start + 3 * data.startswith(b"\xef\xbb\xbf")
        line, column = data.count(b"\n", 0, start) + 1, start - data.rfind(b"\n", 0, start)
        raise UserError(f"{path}:{line}:{column}: byte {data[start]:#04x}: not UTF-8; save the file as UTF-8") from None


def _json(text: str, path: Path, first: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:  # also a number of thousands of digits, and brackets as deep
        line, column = first + getattr(err, "lineno", 1) - 1, getattr(err, "colno", 1)
        raise UserError(f"{path}:{line}:{column}: not JSON: {getattr(err, 'msg', err)}; mend the file") from None


def _object(value: Any, place: str) -> records.Row:
    if not isinstance(value, dict):
        raise UserError(f"{place}: {str(value)[:40]!r}: expected an object of columns, got {type(value).__name__}")
    return value


def _from_json(path: Path) -> PlacedRows:
    rows = _json(_text(path), path, 1)
    if not isinstance(rows, list):
        raise UserError(f"{path}:1:1: expected an array of objects, got {type(rows).__name__}; or rename it to .jsonl")
    return [(place := f"{path}: row {n}", _object(row, place)) for n, row in enumerate(rows, 1)]


def _from_jsonl(path: Path) -> PlacedRows:
    # Not splitlines: a text may hold U+2028 and other line ends that JSON does not escape.
    lines = [(number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    return [(place := f"{path}:{number}", _object(_json(line, path, number), place)) for number, line in lines]


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            raise UserError(
                f"{path}:1: column {number}: the name {name!r} is empty or taken; the first line names each"
            )
    return names


def _from_csv(path: Path) -> PlacedRows:
    csv.field_size_limit(2**30)  # a cell may contain a book; the default limit of the csv module is 131,072 characters
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows = PlacedRows()
    names: list[str] = []
    start = 1  # the line on which the next row begins
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1  # a quoted cell may hold line ends
            if not cells:
                continue
            if not names:
                names = _header(cells, path)
            elif len(cells) != len(names):
                counts = f"{len(cells)} cells where the first line names {len(names)} columns"
                raise UserError(f"{path}:{line}: {counts}, first {cells[0][:40]!r}; quote a cell that holds a comma")
            else:
                rows.append((f"{path}:{line}", dict(zip(names, cells, strict=True))))
    except csv.Error as err:
        raise UserError(f"{path}:{start}: not CSV: {err}; double every quote inside a quoted cell") from None
    return rows


def _from_parquet(path: Path) -> PlacedRows:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        # Not read_table: in a folder named like `language=en` it would add a column.
        table = pyarrow.parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as err:
        raise UserError(f"{path}: not Parquet: {str(err).splitlines()[0]}; write the file again") from None
    table = table.select([name for name in table.column_names if not _INDEX.fullmatch(name)])
    return [(f"{path}: row {number}", row) for number, row in enumerate(table.to_pylist(), 1)]


READERS: dict[str, Callable[[Path], PlacedRows]] = {
    ".csv": _from_csv,
    ".json": _from_json,
    ".jsonl": _from_jsonl,
    ".parquet": _from_parquet,
}


def _plain(value: Any, place: str) -> Any:
    """Convert a value to JSON types; NaN becomes None. Raises UserError for other types and lone surrogates."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise UserError(f"{place}: {value[:40]!r} holds half a surrogate pair, which is no character; take it out")
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(inner, place) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, place) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise UserError(f"{place}: {str(value)[:40]!r} is {type(value).__name__}; write it as text or as a number")


def read(path: str | Path) -> list[Row]:
    """Read the rows of a table. Raises UserError for an unknown suffix, an unreadable file and an empty table."""
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; generate.items names it")
    rows = READERS[path.suffix.lower()](path)
    if not rows:
        raise UserError(f"{path}: holds no row; add one for each record")
    return [Row(place, {k: _plain(v, f"{place}: {k}") for k, v in cells.items()}) for place, cells in rows]


def text_columns(rows: Sequence[Row]) -> list[str]:
    """Names of the columns whose values are all text or None, in order of first appearance."""
    columns = dict.fromkeys(column for row in rows for column in row.values)
    return [column for column in columns if all(isinstance(row.values.get(column), str | None) for row in rows)]


# Mapping of columns to the fields of a record.

FACTS = {"system": "system", "human": "instruction"}  # speaker -> fact that receives the text of the turn
SPEAKERS = (*FACTS, "gpt")


class Fields(Section):
    """Columns, or paths into them (`chosen.value`), of each field; every other column is a fact."""

    id: str | None  # none: a hash of the row, so that an inserted row renames no other
    type: str | None  # none: all rows are of the recipe's only type
    text: Annotated[str, Field(min_length=1)]
    rejected: str | None  # a worse text for the same: the rows are preference pairs
    turns: str | None  # a conversation: its question is the fact `instruction`, its system turn the fact `system`

    @property
    def taken(self) -> set[str]:
        """Columns that are not facts, including those that a path starts at."""
        return {name for path in self.model_dump().values() if path for name in (path, path.split(".")[0])}


def kind(row: Row, column: str | None, types: dict[str, str]) -> str:
    """The content type of a row; without a column, the first of `types`. UserError for an unknown type."""
    value = row.need(column, "generate.fields.type") if column else next(iter(types))
    if not isinstance(value, str) or value not in types:
        raise UserError(f"{row.place}: {column}: {value!r} is none of types: {', '.join(types)}")
    return value


def name(row: Row, column: str | None, places: dict[str, str]) -> str:
    """The id of a row, or without a column its hash. `places` maps known ids to their rows, and is updated."""
    if not column:
        return row.digest()
    value = str(row.need(column, "generate.fields.id"))
    if "/" in value:
        raise UserError(
            f"{row.place}: {column}: {value!r} holds '/', which parts the id of a record; write another sign"
        )
    if value in places:
        raise UserError(f"{row.place}: {column}: {value!r} is the id of {places[value]} too; give each row its own")
    places[value] = row.place
    return value


def words(value: Any) -> str:
    """Strip a text; serialise another value as compact JSON, its keys in their order."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.strip()


def conversation_facts(row: Row, column: str) -> dict[str, str] | None:
    """The facts `instruction` and `system` of a conversation in ShareGPT format, a list of turns {from, value}.

    None for a conversation of several rounds. Raises UserError for a value that is not a list of turns, an unknown
    speaker, an empty turn, and a column with the name of one of the two facts.
    """
    where, turns = f"{row.place}: {column}", row.need(column, "generate.fields.turns")
    if not isinstance(turns, list):
        raise UserError(
            f"{where}: {str(turns)[:40]!r}: expected a list of turns; name another in generate.fields.turns"
        )
    dialogue: list[tuple[str, str]] = []  # speaker and text
    for number, turn in enumerate(turns):
        if not (isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ("from", "value"))):
            raise UserError(f"{where}.{number}: {str(turn)[:40]!r}: expected a turn with 'from' and 'value', both text")
        if turn["from"] not in SPEAKERS:
            raise UserError(f"{where}.{number}.from: {turn['from']!r}: unknown speaker; known: {', '.join(SPEAKERS)}")
        if not turn["value"].strip():
            raise UserError(f"{where}.{number}.value: {turn['value']!r} is empty; fill it or take the row out")
        dialogue.append((turn["from"], turn["value"].strip()))
    if [speaker for speaker, _ in dialogue] not in (["human"], ["system", "human"]):
        return None
    if taken := [fact for fact in FACTS.values() if row.values.get(fact)]:
        raise UserError(f"{row.place}: {taken[0]}: a column of this name beside {column}, which gives it; rename it")
    return dict.fromkeys(FACTS.values(), "") | {FACTS[speaker]: text for speaker, text in dialogue}
