"""Rule rewards: named functions that score a text from 0 to 1, each with a weight in params.

They compare samples of one prompt, where only differences teach. Most are therefore graded: of samples that all miss a
rule, the one that misses it by less is still the better one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated

from pydantic import Field, field_validator

from anneal.checks import facts, json_layout, text_checks
from anneal.errors import UserError
from anneal.params import Section
from anneal.records import Record

Values = dict[str, float]  # name of a reward -> its value in [0, 1], or its weight


class CallToAction(Section):
    """The types, as shell patterns, whose texts must hold a call to action, and its regular expression."""

    types: list[str]
    pattern: facts.Pattern | None  # searched in the whole text


class Rewards(Section):
    """The weight of each reward, and the settings of those that need some."""

    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]  # name -> weight; 0, or no name, is off
    call_to_action: CallToAction

    @field_validator("weights")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        unknown = [name for name in weights if name not in NAMES]
        if unknown:
            raise ValueError(f"unknown reward {unknown[0]!r}; known: {', '.join(NAMES)}")
        return weights

    @property
    def used(self) -> Values:
        """The weights above 0, in the order of NAMES."""
        return {name: weight for name in NAMES if (weight := self.weights.get(name, 0.0))}


@dataclass(frozen=True)
class Sample:
    """A sampled text with the record that it answers and everything else that a reward reads."""

    record: Record  # id, type, facts
    text: str
    stopped: bool
    context: text_checks.Context
    call: CallToAction
    model_score: float = 0.0  # of the reward model, any real number

    @cached_property
    def hits(self) -> dict[str, list[str]]:
        """The findings of the fact checks, rule by rule: computed once for all rewards that read them."""
        rules, known = self.context.rules, self.context.known
        return facts.check(self.text, self.record["type"], self.record["facts"], rules, known)


def _fewer(hits: Sequence[str]) -> float:
    """1 without a hit, then 1/2, 1/3 ...: the first hit costs most, and each further one still costs."""
    return 1 / (1 + len(hits))


def banned(sample: Sample) -> float:
    """Falls with each different word of rules.banned."""
    return _fewer(sample.hits["banned"])


def exaggerated(sample: Sample) -> float:
    """Falls with each pattern of rules.exaggerated that is found."""
    return _fewer(sample.hits["exaggerated"])


def unsupported(sample: Sample) -> float:
    """Falls with each word or number, in the slots `foreign` and `also`, that the record's facts do not hold."""
    return _fewer(sample.hits["unsupported"])


def of_type(sample: Sample) -> float:
    """The share of the type's required patterns that is found, then less for each forbidden one."""
    hits = sample.hits["type"]
    missing = [hit for hit in hits if hit.startswith("missing ")]
    require = sample.context.rules.types[sample.record["type"]].require
    return (1 - len(missing) / max(1, len(require))) * _fewer(hits[len(missing) :])


def own_facts(sample: Sample) -> float:
    """The share of the record's own facts named, of as many as rules.facts.at_least asks for or the record holds."""
    rule = sample.context.rules.facts
    sheet, known = sample.record["facts"], sample.context.known
    needed = min(rule.at_least, len(facts.own(sheet, rule.slot)))
    return min(1.0, len(facts.named(sample.text, sheet, rule.slot, known)) / needed) if needed else 1.0


def name(sample: Sample) -> float:
    """1 where the text holds the record's name word for word."""
    return float(not sample.hits["name"])


def length(sample: Sample) -> float:
    """1 inside the type's band of characters; outside it falls in a line to 0 at no text and at twice the upper end."""
    if not sample.hits["length"]:
        return 1.0
    low, high = sample.context.rules.types[sample.record["type"]].length
    return len(sample.text) / low if len(sample.text) < low else max(0.0, 2 - len(sample.text) / high)


def call_to_action(sample: Sample) -> float:
    """1 where a text whose type needs a call to action holds one; 1 for every other type."""
    needed = any(fnmatchcase(sample.record["type"], pattern) for pattern in sample.call.types)
    return float(not needed or bool(re.search(sample.call.pattern or "", sample.text)))


def valid_json(sample: Sample) -> float:
    """1 where the whole text is JSON, from its first character to its last."""
    return float(json_layout.strict(sample.text) is not None)


def in_distribution(sample: Sample) -> float:
    """1 where the density of the text reaches the filter's threshold."""
    return float(not any(text_checks.run(["in_distribution"], sample.record, sample.text, sample.context).values()))


def stop(sample: Sample) -> float:
    """1 where the text ended with a stop token; 0 where it was cut at the limit of tokens."""
    return float(sample.stopped)


def by_model(sample: Sample) -> float:
    """The logistic function of the reward model's score, which has no bounds of its own."""
    return 0.5 + 0.5 * math.tanh(sample.model_score / 2)  # equal to 1 / (1 + exp(-x)), without its overflow far from 0


REWARDS: dict[str, Callable[[Sample], float]] = {
    "banned": banned,
    "exaggerated": exaggerated,
    "unsupported": unsupported,
    "type": of_type,
    "facts": own_facts,
    "name": name,
    "length": length,
    "call_to_action": call_to_action,
    "json": valid_json,
    "in_distribution": in_distribution,
    "stop": stop,
    "model": by_model,
}
NAMES = tuple(REWARDS)


def refuse(rewards: Rewards, context: text_checks.Context, model: bool) -> None:
    """UserError where no weight is above 0, or one is on an empty rule or an absent model.

    Such a reward would be the same for every text: it teaches nothing and only raises the mean.
    """
    rules, call = context.rules, rewards.call_to_action
    patterns = list(rules.forbid)
    for type_rules in rules.types.values():
        patterns += [*type_rules.require, *type_rules.forbid]
    call_types = [kind for kind in rules.types if any(fnmatchcase(kind, pattern) for pattern in call.types)]
    needs = {
        "banned": (rules.banned, "words in rules.banned"),
        "exaggerated": (rules.exaggerated.patterns, "patterns in rules.exaggerated"),
        "unsupported": (rules.foreign or rules.also, "slots in rules.foreign or rules.also"),
        "type": (patterns, "patterns in rules.types or rules.forbid"),
        "facts": (rules.facts.at_least, "rules.facts.at_least above 0"),
        "name": (rules.name, "a fact in rules.name"),
        "call_to_action": (
            call_types and call.pattern,
            "rewards.call_to_action.pattern, and .types that fit one of types",
        ),
        "in_distribution": (context.density, "models/density (`dvc repro filter`)"),
        "model": (model, "models/reward (reward.epochs above 0)"),
    }
    if not rewards.used:
        raise UserError("params.yaml: rewards.weights: all are 0; give at least one reward a weight")
    for key, weight in rewards.used.items():
        present, need = needs.get(key, (True, ""))
        if not present:
            raise UserError(f"params.yaml: rewards.weights.{key}: {weight:g} needs {need}; add that or set it to 0")


def score(
    records: Sequence[Record],
    texts: Sequence[str],
    stopped: Sequence[bool],
    rewards: Rewards,
    context: text_checks.Context,
    model_scores: Sequence[float] | None = None,
) -> list[Values]:
    """The rewards with a weight above 0 of each text, each in [0, 1]; UserError as of `refuse`.

    `stopped` says whether a text ended by itself; `model_scores` of the reward model are unbounded.
    """
    refuse(rewards, context, model_scores is not None)
    by_model_scores = model_scores if model_scores is not None else [0.0] * len(texts)
    samples = [
        Sample(record, text, ended, context, rewards.call_to_action, model_score)
        for record, text, ended, model_score in zip(records, texts, stopped, by_model_scores, strict=True)
    ]
    return [{key: REWARDS[key](sample) for key in rewards.used} for sample in samples]


def total(row: Values, rewards: Rewards) -> float:
    """The weighted mean of a row of rewards, in [0, 1]."""
    used = rewards.used
    return math.fsum(weight * row[key] for key, weight in used.items()) / math.fsum(used.values())
