"""The reward model: a base with an adapter and a head that gives one number to a text as the answer to a prompt.

A text is scored as it is learnt, through the chat template and with its stop; the head reads that last token.
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
NOTE = "reward.json"
_BATCH = 16


def padding(tokenizer: Any) -> int:
    """The token that fills rows up. Trap: the model takes the last token that is no padding for the end of a text.

    Where a tokenizer pads with its stop, the stop would be skipped and the score read off some word before it; there
    any other token pads, since the attention mask hides it anyway.
    """
    stops = set(chat_template.stop_ids(tokenizer))
    return int(next(n for n in (tokenizer.pad_token_id, *range(len(stops) + 1)) if n not in stops))


def _head(width: int, seed: int) -> Any:
    import torch

    class Head(torch.nn.Linear):
        """In float32 under autocast too: in half precision the scores of two good texts are often one number."""

        def forward(self, hidden: Any) -> Any:
            with torch.autocast(hidden.device.type, enabled=False):
                return torch.nn.functional.linear(hidden.float(), self.weight)

    made = Head(width, 1, bias=False)
    drawn = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made.weight.copy_(drawn / math.sqrt(width + 1))  # Stiennon et al. 2020: scores begin near 0
    return made


def untrained(dtype: str | None, seed: int = 0) -> Any:
    """models/base (or what it pins) with a random head, in eval mode; refuses other weights than a head's missing."""
    name, revision = loading.pinned(BASE)
    place = loading.device()
    # Half-precision weights are for cards; elsewhere `dtype` only sets the autocast of training.
    number = loading.dtype(dtype if place.startswith("cuda") else "float32")
    loading.quiet()
    from transformers import AutoModelForSequenceClassification

    try:
        found, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            num_labels=1,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=Path(name).is_dir(),
            output_loading_info=True,
            dtype=number,
            device_map=None if place == "cpu" else {"": place},
        )
    except Exception as err:
        line = next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)[:300]
        raise UserError(f"{name}: no reward model could be made of it: {line}; set reward.epochs to 0") from None
    if missing := sorted(set(info["missing_keys"]) ^ {"score.weight"}):
        raise UserError(f"{name}: as a reward model its weights differ: {missing[0]}; set reward.epochs to 0")
    found.score = _head(found.score.in_features, seed).to(place)
    found.config.get_text_config().pad_token_id = padding(loading.tokenizer(BASE))
    return found.eval()


@dataclass(frozen=True)
class Scorer:
    """Scores are (what the head says - centre) / scale: standard deviations from the mean of the held-out texts.

    So 0 is a text between the chosen and the rejected ones, and the logistic function of a score uses the whole of
    0..1; of the head's own number it would be 1 for every text that is any good.
    """

    tokenizer: Any
    weights: Any
    centre: float = 0.0
    scale: float = 1.0

    def score(self, prompts: Sequence[Messages], texts: Sequence[str]) -> list[float]:
        """A score for each text as the answer to its prompt; neither order nor neighbours matter in float32."""
        rows = [self.encode(prompt, words) for prompt, words in zip(prompts, texts, strict=True)]
        return [(value - self.centre) / self.scale for value in self.read(rows)]

    def encode(self, prompt: Messages, words: str) -> list[int]:
        """A text after its prompt in tokens; one that a model drew may be one that the template would rewrite."""
        try:
            return chat_template.encode(self.tokenizer, prompt, [{"role": "assistant", "content": words}]).ids
        except Unmaskable:
            plain = self.tokenizer(words, add_special_tokens=False)["input_ids"]
            return [
                *chat_template.prompt_ids(self.tokenizer, prompt),
                *plain,
                chat_template.stop_ids(self.tokenizer)[0],
            ]

    def read(self, rows: Sequence[list[int]]) -> list[float]:
        """What the head says of encoded rows: the difference of two of one prompt is the log odds between them."""
        import torch

        place, pad = next(self.weights.parameters()).device, padding(self.tokenizer)
        found: dict[int, float] = {}
        for places in generate.batches([len(row) for row in rows], _BATCH):
            width = max(len(rows[n]) for n in places)
            ids = torch.tensor([rows[n] + [pad] * (width - len(rows[n])) for n in places], device=place)
            mask = torch.tensor([[1] * len(rows[n]) + [0] * (width - len(rows[n])) for n in places], device=place)
            with torch.inference_mode():
                logits = self.weights(input_ids=ids, attention_mask=mask, use_cache=False).logits
            found |= zip(places, logits[:, 0].tolist(), strict=True)
        return [found[n] for n in range(len(rows))]


def units(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean and standard deviation of the scores of both sides of the validation pairs, of the training pairs if none.

    Both sides, so that 0 lies between chosen and rejected and neither end of the scale is out of sight.
    """
    parts = {row["part"] for row in rows}
    part = "validation" if "validation" in parts else "train"
    values = [row[side] for row in rows if row["part"] == part for side in ("chosen", "rejected")]
    return {"centre": statistics.fmean(values), "scale": statistics.pstdev(values) or 1.0}


def load(folder: str | Path = FOLDER) -> Scorer | None:
    """The reward model of a folder; None where the reward stage made none."""
    note = files.read_json(Path(folder) / NOTE)
    if not note["made"]:
        return None
    found = weights.attached(untrained(note["dtype"]), Path(folder))
    return Scorer(loading.tokenizer(BASE), found, note["centre"], note["scale"])


def save(found: Any, note: dict[str, Any], folder: Path) -> None:
    """A plain PEFT folder of deterministic bytes, the head in it, and what a score needs besides."""
    found.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    for name in ("target_modules", "modules_to_save"):  # sets before, in another order in every process
        if isinstance(config[name], list):
            config[name] = sorted(set(config[name]))
    config["base_model_name_or_path"] = str(BASE)
    files.write_text(path, json.dumps(config, indent=1, sort_keys=True) + "\n")
    files.write_json(folder / NOTE, note)
