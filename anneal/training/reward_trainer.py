"""Training of the reward model on comparisons (Bradley and Terry 1952): P(chosen wins) = sigmoid(chosen - rejected).

TRL's RewardTrainer on encoded pairs, in a row order that a resumed run repeats.
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
    """The columns that RewardTrainer reads, chosen_ids and rejected_ids: prompt and answer in one row."""
    from datasets import Dataset

    return Dataset.from_dict({f"{side}_ids": [row["prompt"] + row[side] for row in pairs.rows] for side in SIDES})


def trainer(settings: dict[str, Any], padding: int, **options: Any) -> Any:
    """TRL's RewardTrainer on rows of `chosen_ids` and `rejected_ids`, padded with the token id `padding`.

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
            # TRL averages the means of batches, which gives the pairs of a short last batch more weight.
            chosen, rejected = outputs.logits.detach()[:, 0].float().chunk(2)
            margins = self.accelerator.gather_for_metrics(chosen - rejected)
            logged = self._metrics["train" if self.model.training else "eval"]
            logged["margin"][-1:] = margins.tolist()
            logged["accuracy"][-1:] = ((1 + margins.sign()) / 2).tolist()
            return (loss, outputs) if return_outputs else loss

        def create_model_card(self, *_args: Any, **_options: Any) -> None:
            """None: a card would contain paths and versions of this machine."""

    # TRL and transformers' train() both set the model's pad token to the tokenizer's, so a copy carries ours.
    tokenizer = copy.deepcopy(options.pop("processing_class"))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    # TRL's defaults would drop long pairs and switch off the dropout that params.yaml sets.
    args = RewardConfig(**settings | {"max_length": None, "disable_dropout": False})
    built = Trainer(args=args, processing_class=tokenizer, **options)
    built.remove_callback(PrinterCallback)
    return built


def steps(trainer: Any) -> dict[str, Any]:
    """Epochs and steps trained, and the loss on validation pairs: best, its step, last; None without validation."""
    losses = [(row["eval_loss"], row["step"]) for row in trainer.state.log_history if "eval_loss" in row]
    best, best_step = min(losses, default=(None, None))
    loss = {"best": best, "best_step": best_step, "last": losses[-1][0] if losses else None}
    return {"epochs": trainer.state.epoch, "steps": trainer.state.global_step, "validation_loss": loss}
