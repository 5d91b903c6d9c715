"""Records on disk: JSON Lines in, JSON Lines out, and nothing half-written in between."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from anneal.errors import UserError


def root() -> Path:
    """The main checkout, also inside `dvc exp run --temp` (DVC sets DVC_ROOT to it)."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def work(name: str) -> Path:
    """A folder for partial work that outlives a killed stage; DVC deletes outs before a stage runs, but not this."""
    folder = root() / ".work" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read(path: str | Path, *keys: str) -> list[Any]:
    """All records of a file; each must be an object that holds `keys`. Refuses with file, line and column."""
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
            if b"\\ud" in raw.lower():  # half a pair of surrogates is JSON, and no text that could be written again
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
    """One value (a metrics file); UserError where the stage that writes it has not run."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` makes it") from None


def _replace(path: Path, fill: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fill(temporary)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True) if temporary.is_dir() else temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all."""

    def fill(temporary: Path) -> None:
        temporary.write_text(text, "utf-8")

    _replace(Path(path), fill)


def write(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records, one a line, keys sorted, so that the same records give the same bytes."""
    write_text(path, "".join(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in records))


def _round(value: Any) -> Any:
    """Six significant decimals: enough to compare, few enough that a sum in another order gives the same bytes."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {str(k): _round(v) for k, v in value.items()}
    return [_round(v) for v in value] if isinstance(value, list | tuple) else value


def write_json(path: str | Path, value: Any) -> None:
    """Write one value (a metrics file): keys sorted, floats rounded to six decimals; NaN is refused."""
    write_text(path, json.dumps(_round(value), ensure_ascii=False, sort_keys=True, indent=1, allow_nan=False) + "\n")


def write_folder(path: str | Path, fill: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all: `fill` writes into a temporary one that then takes the name."""
    target = Path(path)

    def fresh(temporary: Path) -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        shutil.rmtree(target, ignore_errors=True)

    _replace(target, fresh)
