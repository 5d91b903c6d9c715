"""why: what a stage read otherwise in the last run than in the run of another revision.

    make why STAGE=judge@golden BASE=HEAD~1

Compares the entry of the stage in dvc.lock of the working tree with the one of the revision (git or DVC), and lists
every dep and param that differs, then the outputs that differ for it. A `dvc commit` leaves the same trace as a run.

reads   dvc.lock, here and at the revision
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from anneal.errors import UserError
from anneal.history import dvc_lock
from anneal.history.dvc_lock import Entry
from anneal.history.revision import Revision

WIDTH = 60  # characters of a param's value that a line shows


def changes(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each key that was added, removed or changed; hashes are not shown, values of params are."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key not in before:
            lines.append(f"{kind} {key}: added")
        elif key not in after:
            lines.append(f"{kind} {key}: removed")
        elif before[key] != after[key]:
            values = [json.dumps(side[key], ensure_ascii=False, sort_keys=True)[:WIDTH] for side in (before, after)]
            lines.append(f"{kind} {key}: {' -> '.join(values) if kind == 'param' else 'changed'}")
    return lines


def param_values(params: Mapping[str, Any]) -> dict[str, Any]:
    """Params by dotted key, so that one changed value is one line and not its whole section."""
    values: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, dict) and value:
            values |= {f"{key}.{inner}": each for inner, each in param_values(value).items()}
        else:
            values[key] = value
    return values


def reasons(before: Entry, after: Entry) -> list[str]:
    """Everything that differs between two runs of a stage, inputs first."""
    lines = changes("dep", before.deps, after.deps)
    lines += changes("param", param_values(before.params), param_values(after.params))
    return lines + changes("out", before.outs, after.outs)


def entry(stage: str, lock: str, name: str) -> Entry:
    """The entry of a stage in a lock. UserError names the stages that the lock has."""
    entries = dvc_lock.parse(lock, name)
    if stage not in entries:
        raise UserError(f"{name}: no stage {stage!r}; it has {', '.join(entries)}")
    return entries[stage]


def main() -> int:
    parser = argparse.ArgumentParser("why", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", help="a stage as dvc.lock names it, such as judge@golden")
    parser.add_argument("base", nargs="?", default="HEAD", help="a revision of git or an experiment of DVC")
    words = parser.parse_args()
    try:
        revision = Revision(words.base)
        name = f"dvc.lock at {words.base} ({revision.commit[:10]})"
        before = entry(words.stage, revision.text(str(dvc_lock.LOCK)), name)
        lines = reasons(before, entry(words.stage, dvc_lock.text(), str(dvc_lock.LOCK)))
    except UserError as err:
        print(f"why: {err}", file=sys.stderr)
        return 1
    print("\n".join(lines) or f"{words.stage}: nothing differs from {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
