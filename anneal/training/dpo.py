"""Direct preference optimisation (Rafailov et al. 2023) on an adapter.

The adapter is its own reference: TRL copies it under the name `ref` and switches between the two, so that the base is
in memory once. Pairs come as token ids with the masks of training; nothing is tokenised by TRL, and nothing is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from anneal.dataset.encoding import Sampler
from anneal.errors import UserError
from anneal.params import Count, Section
from anneal.records import Record
from anneal.training import lm_head
from anneal.training.preference_pairs import SIDES, Pairs

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
# Log-probabilities are sums over a text, in nats; rewards are beta times their distance from the reference.
COLUMNS = _NAMES | {f"eval_{name}": f"validation_{column}" for name, column in _NAMES.items()}


class Dpo(Section):
    """How preferences are learnt from pairs. `sft` is the weight of the loss on the chosen text beside that of DPO."""

    beta: Positive
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


def prove(trainer: Any, pairs: Pairs, stops: Sequence[int]) -> None:
    """The batches hold each pair whole, with the loss on the answer and its stop alone."""
    for row in pairs.rows:
        one = trainer.data_collator([{f"{name}_ids": row[name] for name in ("prompt", *SIDES)}])
        for number, side in enumerate(SIDES):
            seen, mask = (
                one[name][number][one["attention_mask"][number] == 1] for name in ("input_ids", "completion_mask")
            )
            if seen.tolist() != row["prompt"] + row[side] or seen[mask == 1].tolist() != row[side]:
                raise UserError(f"{row['id']}: {side} does not reach the model as it was encoded; pin trl to 1.16")
            if row[side][-1] not in stops:
                raise UserError(f"{row['id']}: {side} does not end in a stop of the chat template")


def trainer(dpo: Dpo, seed: int, learnt: Pairs, held: Pairs, shared: Record, **options: Any) -> Any:
    """TRL's DPOTrainer on encoded pairs, in an order of our own; `shared` are training.arguments."""
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_rest: Any) -> Any:
            return dataset  # TRL's own tokens would end in what the template writes after the stop

        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
            lengths = [0] * len(train_dataset or self.train_dataset)
            return Sampler(lengths, self.args.train_batch_size, seed, False, lambda: int(self.state.epoch or 0))

        def create_model_card(self, *_args: Any, **_options: Any) -> None:
            """Cards hold paths and versions of this machine."""

    term = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, dpo.sft]} if dpo.sft else {"loss_type": ["sigmoid"]}
    args = DPOConfig(
        **shared,
        **term,
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
        eval_strategy="steps" if held.rows else "no",
    )
    eval_dataset = held.dataset() if held.rows else None
    made = Trainer(args=args, train_dataset=learnt.dataset(), eval_dataset=eval_dataset, **options)
    made.remove_callback(PrinterCallback)
    lm_head.replace(made.model)
    return made
