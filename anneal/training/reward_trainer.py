"""Learning a reward from comparisons (Bradley and Terry 1952): P(chosen is better) = sigmoid(chosen - rejected).

TRL's RewardTrainer on pairs that are encoded already, in an order of rows that a run started again repeats.
"""

from __future__ import annotations

import copy
from typing import Any

from anneal.dataset.encoding import Sampler
from anneal.training.preference_pairs import SIDES, Pairs

COLUMNS = {
    "epoch": "epoch",
    "loss": "loss",
    "learning_rate": "lr",
    "accuracy": "accuracy",
    "margin": "margin",
    "eval_loss": "validation_loss",
    "eval_accuracy": "validation_accuracy",
    "eval_margin": "validation_margin",
}


def dataset(pairs: Pairs) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({f"{side}_ids": [row["prompt"] + row[side] for row in pairs.rows] for side in SIDES})


def trainer(settings: dict[str, Any], padding: int, **options: Any) -> Any:
    """The trainer of rows with `chosen_ids` and `rejected_ids`, filled up with the token `padding`.

    `settings` are arguments of TRL's RewardConfig.
    """
    from transformers import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    class Trainer(RewardTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
            lengths = [0] * len(train_dataset or self.train_dataset)
            epoch = lambda: int(self.state.epoch or 0)  # noqa: E731
            return Sampler(lengths, self.args.train_batch_size, self.args.seed, False, epoch)

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *rest: Any, **named: Any) -> Any:
            loss, outputs = super().compute_loss(model, inputs, True, *rest, **named)
            # TRL averages the means of batches, in which the pairs of a short last batch count more than the others.
            chosen, rejected = outputs.logits.detach()[:, 0].float().chunk(2)
            margins = self.accelerator.gather_for_metrics(chosen - rejected)
            known = self._metrics["train" if self.model.training else "eval"]
            known["margin"][-1:] = margins.tolist()
            known["accuracy"][-1:] = ((1 + margins.sign()) / 2).tolist()
            return (loss, outputs) if return_outputs else loss

        def create_model_card(self, *_args: Any, **_options: Any) -> None:
            """Cards hold paths and versions of this machine."""

    # Both TRL and transformers' train() set the model's padding to that of the tokenizer, which here encodes nothing.
    tokenizer = copy.deepcopy(options.pop("processing_class"))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    # Nothing is cut or left out for its length, and the dropout that params.yaml asks for is there.
    args = RewardConfig(**settings | {"max_length": None, "disable_dropout": False})
    made = Trainer(args=args, processing_class=tokenizer, **options)
    made.remove_callback(PrinterCallback)
    return made


def steps(trainer: Any) -> dict[str, Any]:
    """How far training came, and its losses on validation pairs."""
    losses = [(row["eval_loss"], row["step"]) for row in trainer.state.log_history if "eval_loss" in row]
    best, step = min(losses, default=(None, None))
    loss = {"best": best, "best_step": step, "last": losses[-1][0] if losses else None}
    return {"epochs": trainer.state.epoch, "steps": trainer.state.global_step, "validation_loss": loss}
