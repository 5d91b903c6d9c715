"""The systems that answer, and the weights of each: the base, the tuned model and, where preferences were learnt, the
aligned one."""

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
# align writes it beside an adapter that has learnt preferences, and merge carries it over; without it the merged
# weights are those of the tuned model.
MARK = "align.json"


def present(system: System) -> bool:
    """Whether the system exists: the aligned one does where align has made it."""
    return system != "aligned" or (MERGED / MARK).is_file()


def files(system: System) -> list[Path]:
    """The folders that its answers hang on."""
    return {"base": [BASE], "tuned": [BASE, ADAPTER], "aligned": [MERGED]}[system]


def attached(weights: Any, folder: Path) -> Any:
    """Weights with the adapter of a folder beside them, as PEFT computes it."""
    if not (folder / "adapter_config.json").is_file():  # PEFT would look for it on the hub
        raise UserError(f"{folder}/adapter_config.json: no such file; `dvc repro train` makes it")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT loads it, and it misses a kernel nobody needs
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing` is deprecated", category=FutureWarning)
    from peft import PeftModel

    return PeftModel.from_pretrained(weights, str(folder)).eval()


def load(system: System, dtype: str | None) -> tuple[Any, Any]:
    """Tokenizer and model of a system. The tuned one is merged in memory: on disk only the last model is kept whole."""
    tokenizer = loading.tokenizer(MERGED if system == "aligned" else BASE)
    weights = loading.load(MERGED if system == "aligned" else BASE, dtype)
    if system == "tuned":
        weights = attached(weights, ADAPTER).merge_and_unload().eval()
    return tokenizer, weights
