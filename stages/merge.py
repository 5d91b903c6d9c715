"""merge: adapter into the full-precision base, shard by shard, with the proof that both say the same.

reads   data/validation.jsonl, models/base, models/aligned
writes  models/merged, reports/metrics/merge.json
params  merge, threads
"""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from anneal import files
from anneal.dataset import chat_template
from anneal.errors import UserError
from anneal.models import loading, lora_merge
from anneal.models.weights import ALIGNED, BASE, MARK, attached
from anneal.params import Count, Section
from anneal.records import Record
from anneal.stage import run

if TYPE_CHECKING:
    import torch

VALIDATION = Path("data/validation.jsonl")


class Merge(Section):
    """Number type of the merged model, and how close it must come to the adapter on the base."""

    dtype: Literal["base", "float32", "bfloat16", "float16"]
    prompts: Count
    tolerance: Annotated[float, Field(gt=0)]  # of a logit


def configuration(folder: Path) -> dict[str, Any]:
    """config.json of the base. Refuses a quantised one: what its rounding lost, the adapter was not trained to mend."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    if quantised := config.get("quantization_config"):
        kind = quantised.get("quant_method", "unknown")
        raise UserError(f"{folder}/config.json: the weights are quantised ({kind}); set model.name to the full model")
    return config


def weight_files(folder: Path) -> Path:
    """The folder with the safetensors: the base itself, or the place where loading has just put the named model."""
    from transformers.utils import cached_file

    name, revision = loading.pinned(folder)
    if Path(name).is_dir():
        return Path(name)
    return Path(cached_file(name, "config.json", revision=revision, local_files_only=True)).parent


def dress(source: Path, target: Path, config: dict[str, Any], tokenizer: Any, dtype: str) -> None:
    """What makes weights a model: config, tokenizer with chat template, and a generation_config that stops."""
    from transformers import GenerationConfig

    kept = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
    (target / "config.json").write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", "utf-8")
    tokenizer.save_pretrained(target)
    there = (source / "generation_config.json").exists()
    generation = GenerationConfig.from_pretrained(source) if there else GenerationConfig()
    # A base checkpoint often names another eos than the template writes; the model would learn to stop and run on.
    generation.eos_token_id, generation.pad_token_id = chat_template.stop_ids(tokenizer), tokenizer.pad_token_id
    generation.save_pretrained(target)


def encode(tokenizer: Any, records: list[Record]) -> list[chat_template.Encoded]:
    """The golden rows in tokens, with their answers marked."""
    rows = []
    for record in records:
        try:
            rows.append(chat_template.encode(tokenizer, record["prompt"], record["completion"]))
        except UserError as err:
            raise UserError(f"{VALIDATION}: {record['id']}: {err}") from None
    return rows


def logits(weights: Any, rows: list[chat_template.Encoded]) -> list[torch.Tensor]:
    """Per row the logits [n, words] that predict the golden answer and its stop, in float32 on the CPU."""
    import torch

    found = []
    for row in rows:
        with torch.inference_mode():
            out = weights(torch.tensor([row.ids], device=weights.device), use_cache=False)
        found.append(out.logits[0, row.prompt - 1 : -1].float().cpu())
    return found


def compare(before: list[torch.Tensor], after: list[torch.Tensor], stops: list[int]) -> dict[str, Any]:
    """The proof in numbers: largest difference, share of places with the same greedy token, share of rows that stop."""
    if beyond := [stop for stop in stops if stop >= after[0].shape[1]]:
        raise UserError(f"models/merged: stop tokens {beyond} lie beyond its {after[0].shape[1]} words; it cannot stop")
    import torch

    same = [(x.argmax(-1) == y.argmax(-1)).tolist() for x, y in zip(before, after, strict=True)]
    places = sum(map(len, same))
    return {
        "prompts": len(after),
        "places": places,
        "largest_difference": float(
            torch.stack([(x - y).abs().max() for x, y in zip(before, after, strict=True)]).max()
        ),
        "greedy_match": sum(map(sum, same)) / places,
        "stops_after_golden": sum(int(y[-1].argmax()) in stops for y in after) / len(after),
    }


def prove(
    target: Path, before: list[torch.Tensor], rows: list[chat_template.Encoded], records: Any, tied: Any, dtype: str
) -> Any:
    """Load the merged folder as anyone would and hold it against the adapter on the base. Refuses where they part."""
    tokenizer, weights = loading.tokenizer(target), loading.load(target, dtype)
    stops, listed = chat_template.stop_ids(tokenizer), weights.generation_config.eos_token_id
    again = encode(tokenizer, records)
    if again != rows or stops != listed or weights.all_tied_weights_keys != tied:
        parts = {"tokens": again == rows, "stops": stops == listed, "ties": weights.all_tied_weights_keys == tied}
        raise UserError(
            f"models/merged: {', '.join(k for k, v in parts.items() if not v)} differ from the base's after saving"
        )
    return compare(before, logits(weights, rows), stops) | {"stop_ids": stops, "tied": bool(tied)}


def main(merge: Merge, threads: int) -> None:
    records = files.read(VALIDATION, "id", "prompt", "completion")
    records = records[:: -(-len(records) // merge.prompts)]  # evenly spaced, so that every type is there
    loading.threads(threads)
    config, lora = configuration(BASE), lora_merge.Adapter(ALIGNED)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32") if merge.dtype == "base" else merge.dtype
    tokenizer, weights = loading.tokenizer(BASE), loading.load(BASE, dtype)
    rows = encode(tokenizer, records)
    source, tied = weight_files(BASE), dict(weights.all_tied_weights_keys)
    plan = lora_merge.match(lora, source, tied, weights.base_model_prefix)
    before = logits(attached(weights, ALIGNED), rows)  # as PEFT computes it: the yardstick
    del weights
    gc.collect()  # the whole model is never in memory twice, and PEFT's wrapper is a cycle of references
    metrics: dict[str, Any] = {"dtype": dtype, "tolerance": merge.tolerance}

    def fill(target: Path) -> None:
        metrics.update(
            lora_merge.write_merged(
                source, target, lora, plan, tied, None if merge.dtype == "base" else loading.dtype(dtype)
            )
        )
        if not metrics["changed"]:
            raise UserError(f"{ALIGNED}: the adapter changes no weight (every B is zero); it was never trained")
        dress(source, target, config, tokenizer, dtype)
        if (ALIGNED / MARK).is_file():
            shutil.copyfile(ALIGNED / MARK, target / MARK)
        metrics.update(prove(target, before, rows, records, tied, dtype))
        if not metrics["largest_difference"] <= merge.tolerance:  # NaN is no proof either
            raise UserError(
                f"merge.tolerance: merged and adapter-on-base differ by up to {metrics['largest_difference']:.3g} "
                f"of a logit, more than {merge.tolerance:g}; merge.dtype float32 rounds least"
            )

    files.write_folder("models/merged", fill)
    files.write_json("reports/metrics/merge.json", metrics)


if __name__ == "__main__":
    run(main)
