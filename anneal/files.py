"""Files of the pipeline: JSON Lines, JSON and folders, each written in full or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from anneal.errors import UserError

# Of floats in a metrics file: enough to compare, and few enough that sums in another order give the same bytes.
_DECIMALS = 6


def root() -> Path:
    """The main checkout, also inside `dvc exp run --temp`, where DVC sets DVC_ROOT to it."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def work(name: str) -> Path:
    """A folder under .work for partial work. DVC deletes outs before a stage runs, but not this folder."""
    folder = root() / ".work" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read(path: str | Path, *keys: str) -> list[Any]:
    """All records of a JSON Lines file; blank lines are skipped.

    UserError with file, line and column for a line that is not an object of JSON in UTF-8, or in which one of `keys` is
    missing or empty.
    """
    records: list[Any] = []
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` makes it") from None
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw.decode("utf-8"))
            if b"\\ud" in raw.lower():  # a lone surrogate is valid JSON but cannot be encoded as UTF-8
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as err:
            raise UserError(
                f"{path}:{number}: \\u{ord(str(err.object)[err.start]):x} is half a character; remove it"
            ) from None
        except RecursionError:
            raise UserError(f"{path}:{number}: nested too deeply to be read; a record is an object of values") from None
        except UnicodeDecodeError as err:
            raise UserError(f"{path}:{number}:{err.start + 1}: not UTF-8; save the file as UTF-8") from None
        except json.JSONDecodeError as err:
            raise UserError(f"{path}:{number}:{err.colno}: not JSON: {err.msg}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}:1: expected an object, got {type(record).__name__}")
        for key in keys:
            if key not in record or record[key] in (None, "", [], {}):
                name = record.get("id", "this record")
                raise UserError(f"{path}:{number}: {key!r} is missing or empty in {name!r}; add it")
        records.append(record)
    return records


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. UserError where the file is missing."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` makes it") from None


def _replace(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a temporary path beside `path`, then rename it, which is atomic within a file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fill(temporary)
        os.replace(temporary, path)
    except BaseException:  # a KeyboardInterrupt too must leave no temporary file behind
        shutil.rmtree(temporary, ignore_errors=True) if temporary.is_dir() else temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8, in full or not at all."""

    def fill(temporary: Path) -> None:
        temporary.write_text(text, "utf-8")

    _replace(Path(path), fill)


def write(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records, one per line with sorted keys, so that equal records give equal bytes."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n" for record in records))


def _round(value: Any) -> Any:
    """Floats inside a JSON value rounded to _DECIMALS, keys as strings."""
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {str(key): _round(inner) for key, inner in value.items()}
    return [_round(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file: sorted keys, floats rounded to six decimals. ValueError for NaN and infinities."""
    write_text(path, json.dumps(_round(value), ensure_ascii=False, sort_keys=True, indent=1, allow_nan=False) + "\n")


def write_folder(path: str | Path, fill: Callable[[Path], None]) -> None:
    """Write a folder in full or not at all: `fill` writes into a temporary one, which then replaces `path`."""
    target = Path(path)

    def fresh(temporary: Path) -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        shutil.rmtree(target, ignore_errors=True)  # a rename cannot replace a folder that is not empty

    _replace(target, fresh)
