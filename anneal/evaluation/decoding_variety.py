"""Comparison of decoding presets on the same items: variety and quality of each.

Sampling may answer an item several times. A run is one answer to every item: metrics that depend on the number of texts
(distinct-n, self-BLEU) are computed run by run and averaged, so that three seeds look no more varied than one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anneal.evaluation import text_metrics
from anneal.stats import intervals

Sampled = Mapping[str, Any]  # an answer of a preset: id, item, preset, seed, text, finish, n_new
Quality = Callable[[Sampled], float]
Runs = dict[Any, list[Sampled]]  # by seed

# Self-BLEU rises with the number of references, so that sets compare at one size only, and its cost grows with the
# square of it.
_SELF_BLEU_TEXTS = 30


def self_bleu(texts: Sequence[str], seed: int, most: int = _SELF_BLEU_TEXTS) -> float | None:
    """Mean sentence BLEU (0 to 100) of each text against all others as references (Zhu et al. 2018, Texygen).

    Of more than `most` texts that many are drawn; sets in one order of ids are drawn alike. None for fewer than two
    texts.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        return None
    indices = sorted(random.Random(f"{seed}/self_bleu").sample(range(len(texts)), min(most, len(texts))))
    tokenizing = BLEU(tokenize="zh", effective_order=True)  # the default takes a Chinese sentence for one word
    tokenized = [tokenizing.tokenizer(texts[index].strip()) for index in indices]
    metric = BLEU(tokenize="none", effective_order=True)  # each text is tokenised once, not once for every other one
    scores = [
        metric.sentence_score(text, tokenized[:index] + tokenized[index + 1 :]).score
        for index, text in enumerate(tokenized)
    ]
    return float(np.mean(scores))


def runs_of(rows: Sequence[Sampled]) -> Runs:
    """The rows of one preset by seed, each run in the order of its ids."""
    runs: Runs = {}
    for row in sorted(rows, key=lambda row: str(row["id"])):
        runs.setdefault(row["seed"], []).append(row)
    return runs


def by_id(rows: Sequence[Sampled], quality: Quality) -> dict[str, float]:
    """The mean of a quality over the runs of each id."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["id"], []).append(float(quality(row)))
    return {key: float(np.mean(values[key])) for key in sorted(values)}


def variety(runs: Runs, budget: int, draws: int, seed: int) -> dict[str, Any]:
    """distinct-n in samples of `budget` characters and self-BLEU, the mean over runs; None where a run has none."""
    metrics: list[dict[str, Any]] = []
    for run in runs.values():
        distinct = text_metrics.distinct({row["id"]: row["text"] for row in run}, budget, draws, seed)
        metrics.append({**distinct, "self_bleu": self_bleu([row["text"] for row in run], seed)})
    means: dict[str, Any] = {}
    for key in metrics[0]:
        values = [run[key] for run in metrics]
        means[key] = None if None in values else float(np.mean(values))
    return means


def by_preset(rows: Sequence[Sampled]) -> dict[str, Runs]:
    """The runs of each preset, in order of appearance. Raises ValueError if a run does not answer every id once."""
    names = list(dict.fromkeys(row["preset"] for row in rows))
    ids = sorted({row["id"] for row in rows})
    presets = {name: runs_of([row for row in rows if row["preset"] == name]) for name in names}
    for name, runs in presets.items():
        for seed, run in runs.items():
            if [row["id"] for row in run] != ids:
                raise ValueError(f"preset {name}, seed {seed}: {len(run)} rows, not one for each of {len(ids)} ids")
    return presets


def compare(
    rows: Sequence[Sampled], golden: Sequence[str], quality: Mapping[str, Quality], budget: int, draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The metrics of each preset, in the order in which presets appear in `rows`; `golden` are the reference texts.

    Estimates of every quality, of `stopped` and of `overrun` (longer than 99% of the references) over ids, with the
    items as clusters; `less_first` is the paired difference to the first preset. distinct-n is computed at `budget`
    characters, or at those of the shortest run if it has fewer. Qualities and their intervals are in 0..1. Raises
    ValueError as `by_preset` does.
    """
    presets = by_preset(rows)
    characters = [sum(len(row["text"]) for row in run) for runs in presets.values() for run in runs.values()]
    size = min([budget, *characters])
    longest = float(np.quantile([len(text) for text in golden], text_metrics.EXTREME))
    qualities: dict[str, Quality] = {
        **quality,
        "stopped": lambda row: row["finish"] == "stop",
        "overrun": lambda row: len(row["text"]) > longest,
    }
    items = {row["id"]: row["item"] for row in rows}
    table: dict[str, dict[str, Any]] = {}
    first: dict[str, dict[str, float]] = {}
    for name, runs in presets.items():
        answers = [row for run in runs.values() for row in run]
        columns = {key: by_id(answers, measure) for key, measure in qualities.items()}
        table[name] = {
            "runs": len(runs),
            "tokens": float(np.mean([row["n_new"] for row in answers])),
            "characters": size,
            **variety(runs, size, draws, seed),
            **{k: intervals.share([*v.values()], [items[i] for i in v]).row() for k, v in columns.items()},
        }
        if first:
            table[name]["less_first"] = {k: intervals.paired(v, first[k], items, seed) for k, v in columns.items()}
        first = first or columns
    return table
