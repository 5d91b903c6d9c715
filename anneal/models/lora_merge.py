"""Merges a LoRA adapter into the weights of its base.

W' = W + s B A,   s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA   (Hu et al. 2021; Kalajdzievski 2023)
W' = m (W + s B A) / |W + s B A|, norms over the inputs of each output, for DoRA             (Liu et al. 2024)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anneal.errors import UserError
from anneal.records import Metrics

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
_TIED = 1e-6  # absolute difference up to which two changes of tied weights count as equal
# A tensor of an adapter: module, and which part of the formula it is.
_PART = re.compile(
    r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_[AB]|lora_magnitude_vector)(\.weight)?"
)


class Adapter:
    """The adapter of a PEFT folder. UserError for another method than LoRA and for missing or broken files."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.folder = folder
        try:
            self.config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
            tensors = load_file(folder / "adapter_model.safetensors")
        except FileNotFoundError as err:
            raise UserError(f"{err.filename or err}: no such file; `dvc repro align` makes it") from None
        except Exception as err:  # the error type of safetensors is not an OSError or ValueError
            raise UserError(f"{folder}: the adapter could not be read: {err}; make it again") from None
        if self.config.get("peft_type") != "LORA":
            raise UserError(
                f"{folder}/adapter_config.json: peft_type {self.config.get('peft_type')}; only LORA is merged"
            )
        self.parts: dict[str, dict[str, torch.Tensor]] = {}  # module -> part -> tensor
        self.replaced: dict[str, torch.Tensor] = {}  # weight -> the tensor that replaces it
        for key, tensor in sorted(tensors.items()):
            name = key.removeprefix("base_model.model.")
            if match := _PART.fullmatch(name):
                self.parts.setdefault(match[1], {})[match[2]] = tensor
            else:  # modules_to_save, and biases that were trained too
                self.replaced[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights of the base that the adapter changes, each with the shape that it must have there."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.replaced.items()}
        for module, parts in self.parts.items():
            if "lora_B.bias" in parts:
                shapes[f"{module}.bias"] = tuple(parts["lora_B.bias"].shape)
            if {"lora_A.weight", "lora_B.weight"} <= set(parts):
                shape = (parts["lora_B.weight"].shape[0], parts["lora_A.weight"].shape[1])
                shapes[f"{module}.weight"] = shape[::-1] if self.config.get("fan_in_fan_out") else shape
            elif set(parts) == {"lora_embedding_A", "lora_embedding_B"}:
                shapes[f"{module}.weight"] = (parts["lora_embedding_A"].shape[1], parts["lora_embedding_B"].shape[0])
            else:
                raise UserError(f"{self.folder}: {module} holds {', '.join(parts)}, which cannot be merged")
        return shapes

    def scaling(self, module: str) -> float:
        """s of a module. alpha may differ by module (alpha_pattern); the rank is that of the tensors."""
        patterns: dict[str, float] = self.config.get("alpha_pattern") or {}
        matches = [value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)]
        parts = self.parts[module]
        rank = next(parts[name].shape[0] for name in ("lora_A.weight", "lora_embedding_A") if name in parts)
        alpha = float(matches[0] if matches else self.config["lora_alpha"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight `name` of the base with the adapter in it, in float32 whatever the types of both."""
        module, _, kind = name.rpartition(".")
        weight = self.replaced.get(name, weight).float()  # an embedding may be saved in full beside its A and B
        parts = {part: tensor.float() for part, tensor in self.parts.get(module, {}).items()}
        if not parts or (kind == "bias" and "lora_B.bias" not in parts):
            return weight
        scaling = self.scaling(module)
        if kind == "bias":
            return weight + scaling * parts["lora_B.bias"]
        if "lora_embedding_A" in parts:
            return weight + scaling * (parts["lora_embedding_B"] @ parts["lora_embedding_A"]).T
        # The Conv1D of GPT-2 stores its weight as (input, output), the transpose of B A.
        transposed = bool(self.config.get("fan_in_fan_out"))
        merged = (weight.T if transposed else weight) + scaling * (parts["lora_B.weight"] @ parts["lora_A.weight"])
        if (magnitude := parts.get("lora_magnitude_vector")) is not None:
            merged = merged * (magnitude.flatten() / merged.norm(dim=1))[:, None]
        return merged.T.contiguous() if transposed else merged


def shards(folder: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes by file and weight, read from the headers alone."""
    from safetensors import safe_open

    names = ["model.safetensors"]
    if (folder / INDEX).exists():
        names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    shapes = {}
    for name in names:
        with safe_open(folder / name, "pt") as shard:
            shapes[name] = {key: tuple(shard.get_slice(key).get_shape()) for key in shard.keys()}  # noqa: SIM118
    return shapes


def match(adapter: Adapter, base: Path, tied: dict[str, str], prefix: str) -> dict[str, str]:
    """The changed weights: name in the files -> name in the adapter. UserError for an adapter of another model.

    `tied` maps a weight to the one that it shares its values with. Some files omit the model's prefix (`h.0...` for
    `transformer.h.0...`). A tied weight is not in the files; changing one of the two would untie them, and loading the
    merged model would tie them again.
    """
    stored = {name: shape for names in shards(base).values() for name, shape in names.items()}
    changed = adapter.shapes()
    plan = {}
    for name, shape in changed.items():
        owner = tied.get(name, name)
        short = owner if owner in stored else owner.removeprefix(f"{prefix}.")
        if stored.get(short) != shape:
            actual = f"{list(stored[short])} in the base" if short in stored else "not in the base"
            raise UserError(
                f"{adapter.folder}: {name} {list(shape)} is {actual}; the adapter is not of this model, train again"
            )
        if owner == name:
            plan[short] = name
    for name, owner in tied.items():
        if (name in changed) != (owner in changed):
            raise UserError(
                f"{adapter.folder}: it changes one of {owner} and {name}, which are tied; "
                "leave both alone or train with ensure_weight_tying"
            )
    return plan


def _merge(adapter: Adapter, name: str, weight: torch.Tensor, tied: dict[str, str]) -> torch.Tensor:
    """The merged weight in float32. UserError if the adapter changes the weights tied to it in another way."""
    import torch

    merged = adapter.apply(name, weight)
    for other in (head for head, owner in tied.items() if owner == name):
        if not torch.allclose(adapter.apply(other, weight), merged, atol=_TIED):
            raise UserError(f"{adapter.folder}: {other} and {name} are tied and differ; untie them")
    return merged


def write_merged(
    source: Path,
    target: Path,
    adapter: Adapter,
    plan: dict[str, str],
    tied: dict[str, str],
    dtype: torch.dtype | None,
) -> Metrics:
    """Write the merged weights, one shard of the base in memory at a time; return counts for the metrics.

    `plan` is that of `match`. `dtype` is that of the result, None to keep that of each weight.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    counts: Metrics = {"tensors": 0, "changed": 0, "parameters": 0, "largest_change": 0.0}
    files: dict[str, str] = {}  # weight -> file
    size = 0  # bytes
    for file, names in shards(source).items():
        merged = {}
        with safe_open(source / file, "pt") as shard:
            for name in sorted(set(names) - set(tied)):
                old = new = shard.get_tensor(name)
                if name in plan:
                    new = _merge(adapter, plan[name], old, tied)
                    change = float((new - old.float()).abs().max())
                    counts["changed"] += change > 0
                    counts["largest_change"] = max(counts["largest_change"], change)
                merged[name] = new.to(dtype or old.dtype) if old.is_floating_point() else old
                counts["tensors"] += 1
                counts["parameters"] += old.numel()
                size += merged[name].nbytes
        save_file(merged, target / file, {"format": "pt"})
        files |= dict.fromkeys(merged, file)
    if set(files.values()) != {"model.safetensors"}:
        index = {"metadata": {"total_size": size}, "weight_map": files}
        (target / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", "utf-8")
    return counts
