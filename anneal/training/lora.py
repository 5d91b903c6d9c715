"""LoRA adapters: params and PEFT configuration, with a fixed rank or an adaptive one (AdaLoRA)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from anneal.params import Count, Section

# AdaLoRA's schedule. It starts with 3/2 of the final rank, as in the paper and in PEFT's defaults (12 for 8). The rank
# stays for the first tenth of the steps, is cut until three tenths are left, and is then fixed, so that the ranks which
# remain are trained on; the paper sets both ends by task. Fractions are integers: they give the same steps everywhere.
_INITIAL_RANK = (3, 2)
_WARMUP_TENTHS = 1
_FINAL_TENTHS = 3
_REALLOCATION_STEPS = 5  # between two cuts; of a run of a hundred steps, at least ten are then cuts


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021).

    `rslora` scales by alpha / sqrt(r) instead of alpha / r. `dora` trains magnitude and direction separately.
    `adaptive` (AdaLoRA, Zhang et al. 2023) starts with 1.5 times the rank and cuts it where it contributes least.
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
    """PEFT's config. `steps` is the length of the whole training; only an adaptive rank depends on it."""
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
    more, less = _INITIAL_RANK
    return AdaLoraConfig(
        init_r=-(-more * lora.r // less),  # rounded up
        target_r=lora.r,
        tinit=_WARMUP_TENTHS * steps // 10,
        tfinal=_FINAL_TENTHS * steps // 10,
        deltaT=_REALLOCATION_STEPS,
        total_step=steps,
        **shared,
    )


def allocate() -> Any:
    """A callback that reallocates rank after each optimizer step, before its gradients are cleared: it needs them."""
    from transformers import TrainerCallback

    class Allocate(TrainerCallback):  # type: ignore[misc]
        def on_optimizer_step(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
            model.base_model.update_and_allocate(state.global_step)

    return Allocate()
