"""The training loop that SFT, DPO, GRPO and the reward model share: arguments, progress, checkpoints, saving.

A run that was killed and resumed must end in the same bytes as one that was not; everything here serves that.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anneal import files
from anneal.dataset import chat_template
from anneal.dataset.encoding import Sampler
from anneal.errors import UserError
from anneal.models import loading
from anneal.records import Row

# Up to this many tokens the full score matrix costs less than the backward pass of torch's CPU flash attention, which
# is 40% of a step of 150-token rows; the memory of eager attention grows with the square of the length.
_EAGER_TOKENS = 256
# Preference methods and the reward model take AdamW in torch's plain implementation, as train.optimizer does by
# default; transformers' own default is the fused one.
_OPTIMIZER = "adamw_torch"
# transformers' default; only SFT, the longest of the trainings, has a param for it (train.weight_decay).
_WEIGHT_DECAY = 0.0
_CHECKPOINTS = 1  # kept on disk: a run resumes from the newest (trainers keep the best one too where it is loaded)
COLUMNS = {"epoch": "epoch", "loss": "loss", "learning_rate": "lr", "eval_loss": "validation_loss"}


def quiet() -> None:
    """Silence what nobody can act on: TRL's use of names that transformers 5 deprecates, a CPU kernel missing in
    bitsandbytes, progress bars of datasets.
    """
    import datasets

    warnings.filterwarnings("ignore", message=".*gradient_checkpointing` is deprecated", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


def trainer(seed: int, grouped: bool, **options: Any) -> Any:
    """TRL's SFTTrainer on rows with `input_ids` and `labels`, in a row order that a resumed run repeats.

    `grouped` puts rows of like length into one batch; `options` go to SFTTrainer.
    """
    from transformers import PrinterCallback
    from transformers import Trainer as Plain
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
            lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
            epoch = lambda: int(self.state.epoch or 0)  # noqa: E731
            return Sampler(lengths, self.args.train_batch_size, seed, grouped, epoch)

        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            # TRL's fused head saves memory on a GPU; on a CPU it projects every position twice (+29% time a step).
            if self.args.device.type == "cpu":
                return Plain.compute_loss(self, model, inputs, *rest, **options)
            return super().compute_loss(model, inputs, *rest, **options)

        def create_model_card(self, *_args: Any, **_options: Any) -> None:
            """None: a card would contain paths and versions of this machine."""

    if not options["args"].packing:
        choose_attention(options["model"], max(len(ids) for ids in options["train_dataset"]["input_ids"]))
    built = Trainer(**options)
    built.remove_callback(PrinterCallback)
    return built


def choose_attention(model: Any, longest: int) -> None:
    """Set eager attention where it is faster: on the CPU, if the longest row has at most 256 tokens."""
    if model.device.type == "cpu" and longest <= _EAGER_TOKENS:
        model.set_attn_implementation("eager")


def watch(validate: bool, section: str = "train") -> Any:
    """A callback that prints progress on stderr, marks complete checkpoints and stops a run whose loss is not finite.

    `validate` evaluates at every checkpoint; `section` of params.yaml is the one that the error names.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            # Every checkpoint is logged too, because a resumed run averages its loss from there.
            if control.should_save or control.should_evaluate or state.global_step >= state.max_steps:
                control.should_log = control.should_save = True
                control.should_evaluate = validate

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            values = {name: float(logs[name]) for name in ("loss", "eval_loss", "grad_norm") if name in (logs or {})}
            if any(not math.isfinite(value) for value in values.values()):
                raise UserError(
                    f"step {state.global_step}: the loss or its gradient is NaN or infinite; lower {section}.lr"
                )
            if values and state.is_world_process_zero:
                progress = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
                print(f"step {state.global_step}/{state.max_steps}  {progress}", file=sys.stderr, flush=True)

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()

    return Watch()


def checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint, None without one; removes those that a kill left half-written."""
    paths = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in paths:
        if not (path / "complete").exists():
            shutil.rmtree(path, ignore_errors=True)  # another process of a launcher may remove it at the same time
    complete = [path for path in paths if path.exists()]
    return str(complete[-1]) if complete else None


def fit(trainer: Any, folder: Path, section: str, advice: str) -> None:
    """Train from the newest checkpoint on. UserError with `advice` where `section`.batch_size exceeds the memory."""
    import torch

    try:
        trainer.train(resume_from_checkpoint=checkpoint(folder))
    except torch.OutOfMemoryError:
        raise UserError(f"params.yaml: {section}.batch_size: out of memory; {advice}") from None


def table(history: Sequence[Row], columns: Mapping[str, str] = COLUMNS) -> str:
    """The log as tab-separated rows, one a step; `columns` maps names of the log to headings of the table."""
    steps: dict[int, dict[str, float]] = {}
    for entry in history:
        values = {column: entry[name] for name, column in columns.items() if entry.get(name) is not None}
        if set(values) - {"epoch"}:
            steps.setdefault(entry["step"], {}).update(values)
    lines = ["\t".join(["step", *columns.values()])]
    for step, row in sorted(steps.items()):
        cells = [f"{row[column]:.6g}" if column in row else "" for column in columns.values()]
        lines.append("\t".join([str(step), *cells]))
    return "\n".join(lines) + "\n"


def pace(times: Path, tokens: int, history: Sequence[Row], seconds: float) -> None:
    """Append tokens per second of this training to the untracked file of times, from which the format
    stage estimates the next one.

    `tokens` are those of one epoch.
    """
    epochs = max((entry["epoch"] for entry in history if "epoch" in entry), default=0)
    with times.open("a") as log:
        log.write(json.dumps({"stage": "train", "tokens_per_second": round(tokens * epochs / seconds, 1)}) + "\n")


def save_adapter(model: Any, tokenizer: Any, base: Path, folder: Path) -> None:
    """Write a PEFT folder of deterministic bytes: no card, no arguments, sorted target modules, a relative base path.

    Its generation_config.json lists every stop token of the template; the tokenizer's eos may be only one of them.
    """
    # DPO and GRPO add a second adapter, their reference; only the trained one is saved.
    model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=["default"])
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    if isinstance(config["target_modules"], list):  # PEFT writes a set, in another order in every process
        config["target_modules"].sort()
    config["base_model_name_or_path"] = str(base)
    files.write_text(path, json.dumps(config, indent=1, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)
    path = base / "generation_config.json"
    generation = json.loads(path.read_text("utf-8")) if path.exists() else {}
    generation |= {"eos_token_id": chat_template.stop_ids(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    files.write_text(folder / path.name, json.dumps(generation, indent=1, sort_keys=True) + "\n")


def trainable_policy(base: Path, adapter: Path, dtype: str, quantize: str, longest: int) -> Any:
    """The base with a trainable adapter from a folder; `longest` is the longest row in tokens.

    Raises UserError for an adaptive adapter.
    """
    from peft import PeftModel

    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    if config["peft_type"] != "LORA":  # PEFT allows one adaptive adapter a model, and the reference is a second one
        raise UserError("params.yaml: train.lora.adaptive: such an adapter learns no preferences; set false")
    loaded_dtype = dtype if loading.device().startswith("cuda") else "float32"
    weights = loading.load(base, dtype=loaded_dtype, quantize=None if quantize == "none" else quantize)
    choose_attention(weights, longest)
    return PeftModel.from_pretrained(weights, str(adapter), is_trainable=True)


def arguments(dtype: str, checkpointing: bool, seed: int, folder: Path) -> dict[str, Any]:
    """TRL arguments that DPO, GRPO and the reward model share; `folder` receives the checkpoints.

    They override TRL's own defaults for the number type, checkpointing and dropout.
    """
    import torch

    number_type = loading.dtype(dtype)
    return {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": number_type == torch.bfloat16,
        "fp16": number_type == torch.float16,
        "use_cpu": loading.device() == "cpu",
        "gradient_checkpointing": checkpointing,
        "disable_dropout": True,
        "optim": _OPTIMIZER,
        "weight_decay": _WEIGHT_DECAY,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "steps",
        "save_total_limit": _CHECKPOINTS,
    }
