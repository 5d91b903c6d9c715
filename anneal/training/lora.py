"""Adapters: low-rank ones, and those that move their rank to where it is needed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from anneal.params import Count, Section


class Lora(Section):
    """Low-rank adapters, Hu et al. 2021. `rslora` scales by alpha / sqrt(r), `dora` learns size and direction apart,
    `adaptive` (AdaLoRA, Zhang et al. 2023) starts with half as much rank again and takes it from where it helps least.
    """

    r: Count
    alpha: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Literal["all-linear"] | list[str]
    rslora: bool
    dora: bool
    adaptive: bool

    @model_validator(mode="after")
    def _one_kind(self) -> Lora:
        if self.adaptive and (self.dora or self.rslora):
            raise ValueError("adaptive goes with neither dora nor rslora")
        return self


def config(lora: Lora, steps: int) -> Any:
    """PEFT's config. `steps` of training in all: an adaptive rank falls between a tenth and seven tenths of them."""
    from peft import AdaLoraConfig, LoraConfig

    shared = {
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.targets,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    if not lora.adaptive:
        return LoraConfig(r=lora.r, use_rslora=lora.rslora, use_dora=lora.dora, **shared)
    return AdaLoraConfig(
        init_r=-(-3 * lora.r // 2),
        target_r=lora.r,
        tinit=steps // 10,
        tfinal=3 * steps // 10,
        deltaT=5,
        total_step=steps,
        **shared,
    )


def allocate() -> Any:
    """A callback that moves rank after each step, while the gradients that tell where are still there."""
    from transformers import TrainerCallback

    class Allocate(TrainerCallback):  # type: ignore[misc]
        def on_optimizer_step(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
            model.base_model.update_and_allocate(state.global_step)

    return Allocate()
