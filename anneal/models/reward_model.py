"""The reward model: a base with an adapter and a head that scores a text as the answer to a prompt.

A text is scored as it is trained: through the chat template and with its stop token, whose hidden state the head reads.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anneal import files
from anneal.dataset import chat_template
from anneal.dataset.chat_template import Messages, Unmaskable
from anneal.decoding import generate
from anneal.errors import UserError
from anneal.models import loading, weights

FOLDER = Path("models/reward")
BASE = Path("models/base")
NOTE = "reward.json"  # dtype, centre and scale of the scores
_BATCH = 16  # texts; in float32 it does not change a score


def padding(tokenizer: Any) -> int:
    """The id of the padding token. Trap: the model scores at the last token that is not padding.

    Where a tokenizer pads with its stop token, the model would skip the stop and score at the token before it. There
    any token but a stop pads, since the attention mask hides it.
    """
    stops = set(chat_template.stop_ids(tokenizer))
    candidates = (tokenizer.pad_token_id, *range(len(stops) + 1))
    return int(next(token for token in candidates if token not in stops))


def _head(width: int, seed: int) -> Any:
    """A random linear head, width -> 1."""
    import torch

    class Head(torch.nn.Linear):
        """A linear layer in float32 also under autocast: in half precision two good texts often get equal scores."""

        def forward(self, hidden: Any) -> Any:
            with torch.autocast(hidden.device.type, enabled=False):
                return torch.nn.functional.linear(hidden.float(), self.weight)

    head = Head(width, 1, bias=False)
    noise = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        head.weight.copy_(noise / math.sqrt(width + 1))  # Stiennon et al. 2020: scores start near 0
    return head


def untrained(dtype: str | None, seed: int = 0) -> Any:
    """models/base (or the model that it pins) with a random head, in eval mode.

    UserError if it cannot be loaded, or if other weights than those of the head are missing.
    """
    name, revision = loading.pinned(BASE)
    device = loading.device()
    # Half-precision weights are for GPUs; elsewhere `dtype` only sets the autocast of training.
    weight_dtype = loading.dtype(dtype if device.startswith("cuda") else "float32")
    loading.quiet()
    from transformers import AutoModelForSequenceClassification

    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            num_labels=1,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=Path(name).is_dir(),
            output_loading_info=True,
            dtype=weight_dtype,
            device_map=None if device == "cpu" else {"": device},
        )
    except Exception as err:
        reason = loading.first_line(err)
        raise UserError(f"{name}: no reward model could be made of it: {reason}; set reward.epochs to 0") from None
    if missing := sorted(set(info["missing_keys"]) ^ {"score.weight"}):
        raise UserError(f"{name}: as a reward model its weights differ: {missing[0]}; set reward.epochs to 0")
    model.score = _head(model.score.in_features, seed).to(device)
    model.config.get_text_config().pad_token_id = padding(loading.tokenizer(BASE))
    return model.eval()


@dataclass(frozen=True)
class Scorer:
    """Scores are (head output - centre) / scale: standard deviations from the mean over the validation pairs.

    A score of 0 thus lies between chosen and rejected texts, and the logistic function of scores spreads over 0..1; of
    the raw head output it would be 1 for every acceptable text.
    """

    tokenizer: Any
    weights: Any
    centre: float = 0.0
    scale: float = 1.0

    def score(self, prompts: Sequence[Messages], texts: Sequence[str]) -> list[float]:
        """A score for each text as the answer to its prompt; in float32 independent of the rest of the batch."""
        rows = [self.encode(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        return [(value - self.centre) / self.scale for value in self.read(rows)]

    def encode(self, prompt: Messages, text: str) -> list[int]:
        """The tokens of a prompt, a text and the stop token."""
        try:
            return chat_template.encode(self.tokenizer, prompt, [{"role": "assistant", "content": text}]).ids
        except Unmaskable:
            # The template would rewrite the text, which happens to sampled texts: encode it without the template.
            plain = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return [
                *chat_template.prompt_ids(self.tokenizer, prompt),
                *plain,
                chat_template.stop_ids(self.tokenizer)[0],
            ]

    def read(self, rows: Sequence[list[int]]) -> list[float]:
        """The head output of encoded rows: the difference of two of one prompt is the log odds between them."""
        import torch

        device = next(self.weights.parameters()).device
        pad = padding(self.tokenizer)
        outputs: dict[int, float] = {}
        for indices in generate.batches([len(row) for row in rows], _BATCH):
            batch = [rows[index] for index in indices]
            width = max(len(row) for row in batch)
            ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=device)
            with torch.inference_mode():
                logits = self.weights(input_ids=ids, attention_mask=mask, use_cache=False).logits
            outputs |= zip(indices, logits[:, 0].tolist(), strict=True)
        return [outputs[index] for index in range(len(rows))]


def units(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean and standard deviation of the head output over the validation pairs, or the training pairs if none.

    Both sides of a pair count, so that 0 lies between chosen and rejected texts. A row holds `part`, `chosen` and
    `rejected`.
    """
    parts = {row["part"] for row in rows}
    part = "validation" if "validation" in parts else "train"
    values = [row[side] for row in rows if row["part"] == part for side in ("chosen", "rejected")]
    return {"centre": statistics.fmean(values), "scale": statistics.pstdev(values) or 1.0}


def load(folder: str | Path = FOLDER) -> Scorer | None:
    """The reward model of a folder; None where the reward stage has trained none."""
    note = files.read_json(Path(folder) / NOTE)
    if not note["made"]:
        return None
    model = weights.attached(untrained(note["dtype"]), Path(folder))
    return Scorer(loading.tokenizer(BASE), model, note["centre"], note["scale"])


def save(model: Any, note: dict[str, Any], folder: Path) -> None:
    """Write adapter and head as a PEFT folder of deterministic bytes, and the note beside them."""
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    for name in ("target_modules", "modules_to_save"):  # PEFT writes sets, whose order differs between processes
        if isinstance(config[name], list):
            config[name] = sorted(set(config[name]))
    config["base_model_name_or_path"] = str(BASE)
    files.write_text(path, json.dumps(config, indent=1, sort_keys=True) + "\n")
    files.write_json(folder / NOTE, note)
