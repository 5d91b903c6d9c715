"""align: preference learning on top of the adapter; `none` passes it through, byte for byte.

reads   models/adapter
writes  models/aligned
params  align
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from stages.lib import jsonl
from stages.lib.params import Refusal, Section, run


class Align(Section):
    """How preferences are learnt."""

    method: Literal["none"]


def copy(adapter: Path, target: Path) -> None:
    """The adapter as training left it, so that every later stage reads one place whatever the method."""
    shutil.copytree(adapter, target, dirs_exist_ok=True)


METHODS: dict[str, Callable[[Path, Path], None]] = {"none": copy}


def main(align: Align) -> None:
    adapter = Path("models/adapter")
    if not (adapter / "adapter_config.json").is_file():
        raise Refusal(f"{adapter}/adapter_config.json: no such file; `dvc repro train` makes it")
    jsonl.write_folder("models/aligned", lambda target: METHODS[align.method](adapter, target))


if __name__ == "__main__":
    run(main)
