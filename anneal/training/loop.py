"""What a training run needs beside the trainer: an order of rows, checkpoints to go on from, a plain adapter folder.

A run that was killed and started again must end in the same bytes as one that was not; everything here serves that.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from anneal import files
from anneal.dataset import chat_template
from anneal.dataset.encoding import Sampler
from anneal.errors import UserError
from anneal.models import loading as models

# Up to this many tokens the whole score matrix costs less than the backward pass of torch's CPU flash attention, which
# is 40% of a step of 150-token rows; longer rows would need memory with their square.
_SHORT = 256
COLUMNS = {"epoch": "epoch", "loss": "loss", "learning_rate": "lr", "eval_loss": "validation_loss"}


def quiet() -> None:
    """TRL still uses names that transformers 5 deprecates, and bitsandbytes misses a CPU kernel that nobody needs."""
    import datasets

    warnings.filterwarnings("ignore", message=".*gradient_checkpointing` is deprecated", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


def trainer(seed: int, grouped: bool, **options: Any) -> Any:
    """TRL's SFTTrainer on rows with `input_ids` and `labels`, in an order of our own and without model cards."""
    from transformers import PrinterCallback
    from transformers import Trainer as Plain
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
            lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
            epoch = lambda: int(self.state.epoch or 0)  # noqa: E731
            return Sampler(lengths, self.args.train_batch_size, seed, grouped, epoch)

        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            # TRL's fused head saves memory on a card; on a CPU it projects every position twice (+29% time a step).
            if self.args.device.type == "cpu":
                return Plain.compute_loss(self, model, inputs, *rest, **options)
            return super().compute_loss(model, inputs, *rest, **options)

        def create_model_card(self, *_args: Any, **_options: Any) -> None:
            """Cards hold paths and versions of this machine."""

    args, longest = options["args"], max(len(ids) for ids in options["train_dataset"]["input_ids"])
    if not args.packing:
        attend(options["model"], longest)
    made = Trainer(**options)
    made.remove_callback(PrinterCallback)
    return made


def attend(model: Any, longest: int) -> None:
    """Eager attention where it is the faster one: on the CPU, for rows of no more than 256 tokens."""
    if model.device.type == "cpu" and longest <= _SHORT:
        model.set_attn_implementation("eager")


def watch(validate: bool, section: str = "train") -> Any:
    """A callback: progress on stderr, whole checkpoints marked as such, and a loss that is no number stops the run."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            # Logged with every checkpoint: a resumed run counts its mean loss from there.
            if control.should_save or control.should_evaluate or state.global_step >= state.max_steps:
                control.should_log = control.should_save = True
                control.should_evaluate = validate

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            seen = {name: float(logs[name]) for name in ("loss", "eval_loss", "grad_norm") if name in (logs or {})}
            if any(not math.isfinite(value) for value in seen.values()):
                raise UserError(f"step {state.global_step}: the loss is no number any more; lower {section}.lr")
            if seen and state.is_world_process_zero:
                said = "  ".join(f"{name} {value:.4f}" for name, value in seen.items())
                print(f"step {state.global_step}/{state.max_steps}  {said}", file=sys.stderr, flush=True)

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()

    return Watch()


def checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint; one that a kill left half-written is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in found:
        if not (path / "complete").exists():
            shutil.rmtree(path, ignore_errors=True)  # another process of a launcher may be at it too
    whole = [path for path in found if path.exists()]
    return str(whole[-1]) if whole else None


def fit(trainer: Any, folder: Path, section: str, advice: str) -> None:
    """Train, from the newest checkpoint on."""
    import torch

    try:
        trainer.train(resume_from_checkpoint=checkpoint(folder))
    except torch.OutOfMemoryError:
        raise UserError(f"params.yaml: {section}.batch_size: out of memory; {advice}") from None


def table(history: list[dict[str, Any]], columns: dict[str, str] = COLUMNS) -> str:
    """The log as tab-separated steps; `columns` are names of the log and what the table calls them."""
    steps: dict[int, dict[str, float]] = {}
    for entry in history:
        known = {column: entry[name] for name, column in columns.items() if entry.get(name) is not None}
        if set(known) - {"epoch"}:
            steps.setdefault(entry["step"], {}).update(known)
    lines = ["\t".join(["step", *columns.values()])]
    for step, row in sorted(steps.items()):
        cells = [f"{row[column]:.6g}" if column in row else "" for column in columns.values()]
        lines.append("\t".join([str(step), *cells]))
    return "\n".join(lines) + "\n"


def pace(times: Path, tokens: int, history: list[dict[str, Any]], seconds: float) -> None:
    """Tokens a second of this training, to the untracked file of times: later stages estimate from it."""
    epochs = max((entry["epoch"] for entry in history if "epoch" in entry), default=0)
    with times.open("a") as log:
        log.write(json.dumps({"stage": "train", "tokens_per_second": round(tokens * epochs / seconds, 1)}) + "\n")


def save_adapter(model: Any, tokenizer: Any, base: Path, folder: Path) -> None:
    """A plain PEFT folder of deterministic bytes: no card, no arguments, sorted target modules, a relative base path.

    Its generation_config.json ends answers at every stop of the template, which the tokenizer's eos alone may not.
    """
    # A trainer of preferences adds a second adapter, the copy that it compares with; it has no place in a model.
    model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=["default"])
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    if isinstance(config["target_modules"], list):  # a set before, in another order in every process
        config["target_modules"].sort()
    config["base_model_name_or_path"] = str(base)
    files.write_text(path, json.dumps(config, indent=1, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)
    path = base / "generation_config.json"
    generation = json.loads(path.read_text("utf-8")) if path.exists() else {}
    generation |= {"eos_token_id": chat_template.stop_ids(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    files.write_text(folder / path.name, json.dumps(generation, indent=1, sort_keys=True) + "\n")


def learner(base: Path, adapter: Path, dtype: str, quantize: str, longest: int) -> Any:
    """The base with the adapter of a folder, which goes on learning; `longest` is the longest row in tokens."""
    from peft import PeftModel

    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    if config["peft_type"] != "LORA":  # PEFT lets only one adaptive adapter be, and the reference is a second one
        raise UserError("params.yaml: train.lora.adaptive: such an adapter learns no preferences; set false")
    number = dtype if models.device().startswith("cuda") else "float32"
    weights = models.load(base, dtype=number, quantize=None if quantize == "none" else quantize)
    attend(weights, longest)
    return PeftModel.from_pretrained(weights, str(adapter), is_trainable=True)


def arguments(dtype: str, checkpointing: bool, seed: int, folder: Path) -> dict[str, Any]:
    """What trainers of preferences share; their own defaults (bf16, checkpointing, dropout) are all overridden."""
    import torch

    number = models.dtype(dtype)
    return {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": number == torch.bfloat16,
        "fp16": number == torch.float16,
        "use_cpu": models.device() == "cpu",
        "gradient_checkpointing": checkpointing,
        "disable_dropout": True,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "steps",
        "save_total_limit": 1,
    }
