"""The formulas of an adapter by hand; test_merge.py compares merged models with PEFT."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.models.lora_merge import Adapter


def saved(folder: Path, tensors: dict[str, Any], **config: Any) -> Adapter:
    from safetensors.torch import save_file

    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 8} | config
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file({f"base_model.model.{k}": v for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    return Adapter(folder)


def pair(module: str, rank: int = 2) -> dict[str, Any]:
    import torch

    draw = torch.Generator().manual_seed(rank)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, 3, generator=draw),
        f"{module}.lora_B.weight": torch.randn(4, rank, generator=draw),
    }


def test_the_change_is_alpha_over_rank_times_b_a(tmp_path: Path) -> None:
    import torch

    tensors, weight = pair("layer"), torch.ones(4, 3, dtype=torch.bfloat16)
    change = tensors["layer.lora_B.weight"] @ tensors["layer.lora_A.weight"]
    found = saved(tmp_path, tensors)
    assert found.shapes() == {"layer.weight": (4, 3)}
    merged = found.apply("layer.weight", weight)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged, 1 + 4 * change)
    torch.testing.assert_close(
        saved(tmp_path, tensors, use_rslora=True).apply("layer.weight", weight), 1 + 8 / math.sqrt(2) * change
    )
    turned = saved(tmp_path, tensors, fan_in_fan_out=True)
    assert turned.shapes() == {"layer.weight": (3, 4)}
    torch.testing.assert_close(turned.apply("layer.weight", weight.T), 1 + 4 * change.T)


def test_dora_gives_every_output_its_trained_norm(tmp_path: Path) -> None:
    import torch

    magnitude = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for turned in (False, True):
        found = saved(tmp_path, pair("layer") | {"layer.lora_magnitude_vector": magnitude}, fan_in_fan_out=turned)
        merged = found.apply("layer.weight", torch.ones(3, 4) if turned else torch.ones(4, 3))
        torch.testing.assert_close(merged.norm(dim=0 if turned else 1), magnitude)


def test_the_rank_is_that_of_the_tensors_and_alpha_follows_its_pattern(tmp_path: Path) -> None:
    names = {"a.0.up": 2, "a.1.up": 4, "a.1.down": 2}
    tensors = {key: value for name, rank in names.items() for key, value in pair(name, rank).items()}
    found = saved(tmp_path, tensors, alpha_pattern={"1.up": 20, r"^a\.0\..*": 3})
    assert {name: found.scaling(name) for name in names} == {"a.0.up": 1.5, "a.1.up": 5.0, "a.1.down": 4.0}


def test_a_module_in_unknown_parts_is_refused(tmp_path: Path) -> None:
    tensors = pair("layer")
    del tensors["layer.lora_B.weight"]
    with pytest.raises(UserError, match=r"layer holds lora_A.weight, which cannot be merged"):
        saved(tmp_path, tensors).shapes()
