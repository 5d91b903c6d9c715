"""Log-probabilities of answers during training, in the form that TRL's trainers of preferences ask a model for.

Off a card TRL projects every position of a row onto the vocabulary, the prompt's and the padding's too, and once more
in the backward pass. Here only the positions that count are projected, once: a third of a step is saved.
"""

from __future__ import annotations

import functools
from typing import Any

# Models that bend their logits need TRL's own head, which knows them all.
_BENT = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def replace(adapted: Any, temperature: float = 1.0) -> None:
    """Put the head into a model that TRL has patched (PEFT's wrapper around it), where that is on the CPU."""
    inner = adapted.get_base_model()
    config = inner.config.get_text_config()
    if inner.device.type != "cpu" or any(getattr(config, name, None) is not None for name in _BENT):
        return
    theirs = inner.forward

    @functools.wraps(theirs)  # generate asks the signature what a model takes
    def forward(*args: Any, fused_lm_head: bool = False, labels: Any = None, **rest: Any) -> Any:
        if fused_lm_head:
            return _output(inner, labels, temperature, *args, **{**rest, "use_cache": False})
        return theirs(*args, **rest) if labels is None else theirs(*args, labels=labels, **rest)

    inner.forward = forward


def _output(inner: Any, labels: Any, temperature: float, *args: Any, **rest: Any) -> Any:
    """Per position (rows, tokens - 1) what TRL reads; 0 where there is no label. Mean logits are a log entry only."""
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    hidden, labels = inner.base_model(*args, **rest).last_hidden_state[:, :-1], labels[:, 1:]
    there = labels >= 0
    logits = inner.get_output_embeddings()(hidden[there]).float() / temperature
    every, wanted = logits.log_softmax(-1), labels[there]

    def spread(values: Any) -> Any:
        return values.new_zeros(there.shape).masked_scatter(there, values)

    with torch.no_grad():
        entropy, top = -(every.exp() * every).sum(-1), every.argmax(-1) == wanted
    return FusedCausalLMOutput(
        loss=None,
        log_probs=spread(every.gather(-1, wanted[:, None])[:, 0]),
        entropy=spread(entropy),
        mean_logits=spread(logits.detach().mean(-1)),
        is_top1=spread(top),
    )
