"""A LoRA adapter as arithmetic: which weights of the base it changes, and into what.

W' = W + s B A,   s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA   (Hu et al. 2021; Kalajdzievski 2023)
W' = m (W + s B A) / |W + s B A|, norms over the input of each output, for DoRA              (Liu et al. 2024)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anneal.errors import UserError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
_PART = re.compile(
    r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_[AB]|lora_magnitude_vector)(\.weight)?"
)


class Adapter:
    """The adapter of a PEFT folder. Refuses what is not LoRA and files that are missing or broken."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.folder = folder
        try:
            self.config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
            tensors = load_file(folder / "adapter_model.safetensors")
        except FileNotFoundError as err:
            raise UserError(f"{err.filename or err}: no such file; `dvc repro align` makes it") from None
        except Exception as err:  # safetensors has an error type of its own
            raise UserError(f"{folder}: the adapter could not be read: {err}; make it again") from None
        if self.config.get("peft_type") != "LORA":
            raise UserError(
                f"{folder}/adapter_config.json: peft_type {self.config.get('peft_type')}; only LORA is merged"
            )
        self.parts: dict[str, dict[str, torch.Tensor]] = {}  # module -> part -> tensor
        self.whole: dict[str, torch.Tensor] = {}  # weight -> the tensor that takes its place
        for key, tensor in sorted(tensors.items()):
            name = key.removeprefix("base_model.model.")
            if found := _PART.fullmatch(name):
                self.parts.setdefault(found[1], {})[found[2]] = tensor
            else:  # modules_to_save, and biases that were trained along
                self.whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight of the base that the adapter changes, with the shape that it must have there."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.whole.items()}
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
        """s of a module; alpha may differ by module (alpha_pattern), the rank is read off the tensors."""
        patterns: dict[str, float] = self.config.get("alpha_pattern") or {}
        own = [value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)]
        parts = self.parts[module]
        rank = next(parts[name].shape[0] for name in ("lora_A.weight", "lora_embedding_A") if name in parts)
        alpha = float(own[0] if own else self.config["lora_alpha"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight `name` of the base with the adapter in it, in float32 whatever the types of both."""
        module, _, kind = name.rpartition(".")
        weight = self.whole.get(name, weight).float()  # an embedding is saved whole beside its own A and B
        parts = {part: tensor.float() for part, tensor in self.parts.get(module, {}).items()}
        if not parts or (kind == "bias" and "lora_B.bias" not in parts):
            return weight
        scaling = self.scaling(module)
        if kind == "bias":
            return weight + scaling * parts["lora_B.bias"]
        if "lora_embedding_A" in parts:
            return weight + scaling * (parts["lora_embedding_B"] @ parts["lora_embedding_A"]).T
        # GPT-2's Conv1D keeps its weight as input x output, the transpose of what B A gives.
        turned = bool(self.config.get("fan_in_fan_out"))
        sum_ = (weight.T if turned else weight) + scaling * (parts["lora_B.weight"] @ parts["lora_A.weight"])
        if (magnitude := parts.get("lora_magnitude_vector")) is not None:
            sum_ = sum_ * (magnitude.flatten() / sum_.norm(dim=1))[:, None]
        return sum_.T.contiguous() if turned else sum_


def shards(folder: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """File -> weight -> shape, from the headers alone."""
    from safetensors import safe_open

    names = ["model.safetensors"]
    if (folder / INDEX).exists():
        names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    found = {}
    for name in names:
        with safe_open(folder / name, "pt") as shard:
            found[name] = {key: tuple(shard.get_slice(key).get_shape()) for key in shard.keys()}  # noqa: SIM118
    return found


def match(adapter: Adapter, base: Path, tied: dict[str, str], prefix: str) -> dict[str, str]:
    """Weight in the files -> its name in the adapter. Refuses an adapter of another model.

    Some files leave the model's prefix away (`h.0...` for `transformer.h.0...`). A weight that is tied to another is
    not in the files; changing one of the two would untie them, which the reader of the merged model would undo.
    """
    there = {name: shape for names in shards(base).values() for name, shape in names.items()}
    changed, plan = adapter.shapes(), {}
    for name, shape in changed.items():
        owner = tied.get(name, name)
        short = owner if owner in there else owner.removeprefix(f"{prefix}.")
        if there.get(short) != shape:
            has = f"{list(there[short])} in the base" if short in there else "not in the base"
            raise UserError(
                f"{adapter.folder}: {name} {list(shape)} is {has}; the adapter is not of this model, train again"
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


def pour(source: Path, target: Path, adapter: Adapter, plan: dict[str, str], tied: dict[str, str], number: Any) -> Any:
    """Write the merged weights, one shard of the base in memory at a time; gives counts for the metrics.

    number: torch dtype of the result, None to keep that of each weight.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    counts: dict[str, Any] = {"tensors": 0, "changed": 0, "parameters": 0, "largest_change": 0.0}
    files: dict[str, str] = {}
    size = 0
    for file, names in shards(source).items():
        merged = {}
        with safe_open(source / file, "pt") as shard:
            for name in sorted(set(names) - set(tied)):
                old = new = shard.get_tensor(name)
                if name in plan:
                    new = adapter.apply(plan[name], old)
                    for other in (head for head, owner in tied.items() if owner == plan[name]):
                        if not torch.allclose(adapter.apply(other, old), new, atol=1e-6):
                            raise UserError(
                                f"{adapter.folder}: {other} and {plan[name]} are tied and differ; untie them"
                            )
                    change = float((new - old.float()).abs().max())
                    counts["changed"] += change > 0
                    counts["largest_change"] = max(counts["largest_change"], change)
                merged[name] = new.to(number or old.dtype) if old.is_floating_point() else old
                counts["tensors"] += 1
                counts["parameters"] += old.numel()
                size += merged[name].nbytes
        save_file(merged, target / file, {"format": "pt"})
        files |= dict.fromkeys(merged, file)
    if set(files.values()) != {"model.safetensors"}:
        index = {"metadata": {"total_size": size}, "weight_map": files}
        (target / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", "utf-8")
    return counts
