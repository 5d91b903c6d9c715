"""The weights of each system that answers: the base, the tuned and, after preference learning, the aligned model."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, Literal

from anneal.errors import UserError
from anneal.models import loading

System = Literal["base", "tuned", "aligned"]
SYSTEMS: tuple[System, ...] = ("base", "tuned", "aligned")
BASE, ADAPTER = Path("models/base"), Path("models/adapter")
ALIGNED, MERGED = Path("models/aligned"), Path("models/merged")
# align writes this file beside an adapter trained on preferences, and merge copies it; without it the merged weights
# are those of the tuned model.
MARK = "align.json"


def present(system: System) -> bool:
    """Whether the system exists; the aligned one does only after preference learning."""
    return system != "aligned" or (MERGED / MARK).is_file()


def files(system: System) -> list[Path]:
    """The folders that its answers depend on."""
    return {"base": [BASE], "tuned": [BASE, ADAPTER], "aligned": [MERGED]}[system]


def attached(model: Any, folder: Path) -> Any:
    """The model with the adapter of a folder, unmerged, in eval mode. UserError if the folder has no adapter."""
    if not (folder / "adapter_config.json").is_file():  # PEFT would search the hub for it
        raise UserError(f"{folder}/adapter_config.json: no such file; `dvc repro train` makes it")
    # PEFT imports bitsandbytes, which warns of a missing kernel that is unused here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing` is deprecated", category=FutureWarning)
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder)).eval()


def load(system: System, dtype: str | None) -> tuple[Any, Any]:
    """Tokenizer and model of a system. The tuned one is merged in memory: only the last model is on disk in full."""
    folder = MERGED if system == "aligned" else BASE
    tokenizer = loading.tokenizer(folder)
    model = loading.load(folder, dtype)
    if system == "tuned":
        model = attached(model, ADAPTER).merge_and_unload().eval()
    return tokenizer, model
