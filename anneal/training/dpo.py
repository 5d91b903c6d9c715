"""Direct preference optimisation (Rafailov et al. 2023) on an adapter.

The reference is a copy of the initial adapter: TRL keeps it under the name `ref` and switches between the two, so that
the base is in memory once. Pairs arrive as token ids, masked as in training; TRL tokenises and truncates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from anneal.dataset.encoding import Sampler
from anneal.errors import UserError
from anneal.params import Count, Section
from anneal.training import lm_head
from anneal.training.preference_pairs import FIELDS, SIDES, Pairs

Positive = Annotated[float, Field(gt=0)]
_NAMES = {
    "loss": "loss",
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
}
# Log-probabilities are sums over a text, in nats; rewards are beta times the difference from the reference.
COLUMNS = _NAMES | {f"eval_{name}": f"validation_{column}" for name, column in _NAMES.items()}


class Dpo(Section):
    """DPO settings. `sft` weights the cross-entropy of the chosen text, which is added to the DPO loss; 0 adds none."""

    beta: Positive  # strength of the KL penalty towards the reference
    sft: Annotated[float, Field(ge=0)]
    lr: Positive
    epochs: Positive
    batch_size: Count
    accumulation: Count
    schedule: Literal["constant_with_warmup", "linear", "cosine"]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    max_grad_norm: Positive
    log_steps: Count
    eval_steps: Count


def check_batches(trainer: Any, pairs: Pairs, stops: Sequence[int]) -> None:
    """Check that a collated pair is complete and that the loss covers the answer with its stop token, nothing else.

    Raises UserError naming the first pair that TRL's collator changes or that lacks a stop token.
    """
    for row in pairs.rows:
        batch = trainer.data_collator([{f"{name}_ids": row[name] for name in FIELDS}])
        for index, side in enumerate(SIDES):  # the collator puts all chosen texts first, then all rejected ones
            attended = batch["attention_mask"][index] == 1
            ids = batch["input_ids"][index][attended]
            mask = batch["completion_mask"][index][attended]
            if ids.tolist() != row["prompt"] + row[side] or ids[mask == 1].tolist() != row[side]:
                raise UserError(f"{row['id']}: {side} does not reach the model as it was encoded; pin trl to 1.16")
            if row[side][-1] not in stops:
                raise UserError(f"{row['id']}: {side} does not end in a stop of the chat template")


def trainer(dpo: Dpo, seed: int, train: Pairs, validation: Pairs, shared: dict[str, Any], **options: Any) -> Any:
    """TRL's DPOTrainer on encoded pairs, in a row order that a resumed run repeats; `shared` is loop.arguments."""
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_rest: Any) -> Any:
            return dataset  # TRL's own encoding would append what the template writes after the stop token

        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
            lengths = [0] * len(train_dataset or self.train_dataset)
            return Sampler(lengths, self.args.train_batch_size, seed, False, lambda: int(self.state.epoch or 0))

        def create_model_card(self, *_args: Any, **_options: Any) -> None:
            """None: a card would contain paths and versions of this machine."""

    loss = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, dpo.sft]} if dpo.sft else {"loss_type": ["sigmoid"]}
    args = DPOConfig(
        **shared,
        **loss,
        beta=dpo.beta,
        learning_rate=dpo.lr,
        num_train_epochs=dpo.epochs,
        warmup_steps=dpo.warmup,
        lr_scheduler_type=dpo.schedule,
        max_grad_norm=dpo.max_grad_norm,
        gradient_accumulation_steps=dpo.accumulation,
        per_device_train_batch_size=dpo.batch_size,
        per_device_eval_batch_size=dpo.batch_size,
        max_length=None,
        logging_steps=dpo.log_steps,
        save_steps=dpo.eval_steps,
        eval_steps=dpo.eval_steps,
        eval_strategy="steps" if validation.rows else "no",
    )
    eval_dataset = validation.dataset() if validation.rows else None
    built = Trainer(args=args, train_dataset=train.dataset(), eval_dataset=eval_dataset, **options)
    built.remove_callback(PrinterCallback)
    lm_head.replace(built.model)
    return built
