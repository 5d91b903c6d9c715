"""Rows made batch by batch: a finished batch stays on disk, where a run that was killed goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from anneal import files
from anneal.decoding import generate
from anneal.records import Record


def gather(
    name: str, lengths: Sequence[int], size: int, folder: Path, make: Callable[[list[int]], list[Record]]
) -> list[Record]:
    """A record for each length, in order. `make` gives those of some places; `name` is said with the progress.

    Rows of like length share a batch, so that none waits long for its last one.
    """
    found: dict[int, Record] = {}
    start, fresh = time.monotonic(), 0
    for number, places in enumerate(generate.batches(list(lengths), size)):
        part = folder / f"{number:05}.jsonl"
        if not part.exists():
            files.write(part, make(places))
            fresh += len(places)
        found |= zip(places, files.read(part), strict=True)
        rate = fresh / (time.monotonic() - start)
        print(f"{name}: {len(found)} of {len(lengths)} rows, {rate:.1f} rows/s", file=sys.stderr)
    return [found[place] for place in range(len(lengths))]
