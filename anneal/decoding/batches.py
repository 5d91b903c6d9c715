"""Resumable batches: a finished batch stays on disk, where a run that was killed goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anneal import files
from anneal.decoding import generate

T = TypeVar("T", bound=Mapping[str, Any])


def gather(name: str, lengths: Sequence[int], size: int, folder: Path, make: Callable[[list[int]], list[T]]) -> list[T]:
    """A row for each length, in order; `make` gives the rows of some indices, `size` of them at most.

    Lengths are in tokens. Rows of like length share a batch, so that none waits long for the last one of its batch.
    Batches that are in `folder` are read from there. `name` starts each line of progress.
    """
    rows: dict[int, T] = {}
    start, fresh = time.monotonic(), 0
    for number, indices in enumerate(generate.batches(list(lengths), size)):
        path = folder / f"{number:05}.jsonl"
        if not path.exists():
            files.write(path, make(indices))
            fresh += len(indices)
        # Read back also when it is fresh, so that a resumed run and an unbroken one see the same values.
        rows |= zip(indices, files.read(path), strict=True)
        rate = fresh / (time.monotonic() - start)
        print(f"{name}: {len(rows)} of {len(lengths)} rows, {rate:.1f} rows/s", file=sys.stderr)
    return [rows[index] for index in range(len(lengths))]
