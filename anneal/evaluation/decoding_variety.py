"""Ways to decode side by side: what each gains in variety and what it pays for that, on the same items.

Sampling may answer an item several times. A run is one answer to every item: what hangs on the number of texts
(distinct-n, self-BLEU) is taken run by run and averaged, so that three seeds look no more varied than one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anneal.evaluation import text_metrics
from anneal.records import Record
from anneal.stats import intervals

Quality = Callable[[Record], float]
Runs = dict[Any, list[Record]]


def self_bleu(texts: Sequence[str], seed: int, most: int = 30) -> float | None:
    """How much a text repeats the others: mean sentence BLEU (0 to 100) of each against all others as references.

    Zhu et al. 2018 (Texygen). It rises with the number of references, so sets compare at one size: of more than `most`
    texts that many are drawn, and the work stays at most ** 2. Sets that are drawn from one list of ids in one order
    are drawn alike. None for fewer than two texts.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        return None
    places = sorted(random.Random(f"{seed}/self_bleu").sample(range(len(texts)), min(most, len(texts))))
    cut = BLEU(tokenize="zh", effective_order=True)  # its default tokenizer takes a Chinese sentence for one word
    words = [cut.tokenizer(texts[place].strip()) for place in places]
    metric = BLEU(tokenize="none", effective_order=True)  # each text is tokenised once, not once for every other one
    scores = [metric.sentence_score(mine, words[:n] + words[n + 1 :]).score for n, mine in enumerate(words)]
    return float(np.mean(scores))


def runs(rows: Sequence[Record]) -> Runs:
    """The rows of one preset by seed, each run in the order of its ids."""
    found: Runs = {}
    for row in sorted(rows, key=lambda row: str(row["id"])):
        found.setdefault(row["seed"], []).append(row)
    return found


def by_id(rows: Sequence[Record], quality: Quality) -> dict[str, float]:
    """The mean of a quality over the runs of each id."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(float(quality(row)))
    return {key: float(np.mean(found[key])) for key in sorted(found)}


def spread(found: Runs, budget: int, draws: int, seed: int) -> dict[str, Any]:
    """distinct-n in samples of `budget` characters and self-BLEU, the mean over runs."""
    drawn: list[dict[str, Any]] = []
    for run in found.values():
        sizes = text_metrics.distinct({row["id"]: row["text"] for row in run}, budget, draws, seed)
        drawn.append({**sizes, "self_bleu": self_bleu([row["text"] for row in run], seed)})
    few = {key for one in drawn for key, value in one.items() if value is None}
    return {key: None if key in few else float(np.mean([one[key] for one in drawn])) for key in drawn[0]}


def parts(rows: Sequence[Record]) -> dict[str, Runs]:
    """The runs of each preset. Raises ValueError where one does not answer every id once."""
    names, ids = list(dict.fromkeys(row["preset"] for row in rows)), sorted({row["id"] for row in rows})
    found = {name: runs([row for row in rows if row["preset"] == name]) for name in names}
    for name, each in found.items():
        for drawn, run in each.items():
            if [row["id"] for row in run] != ids:
                raise ValueError(f"preset {name}, seed {drawn}: {len(run)} rows, not one for each of {len(ids)} ids")
    return found


def compare(
    rows: Sequence[Record], golden: Sequence[str], quality: Mapping[str, Quality], budget: int, draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Each preset's figures, in the order in which presets appear in `rows` (id, item, preset, seed, text, finish).

    Estimates of every quality, of `stopped` and of `overrun` (longer than 99 of 100 golden texts) over ids, with the
    items as clusters; `less_first` is the paired difference to the first preset. distinct-n is taken at `budget`
    characters, or at those of the shortest run where that has fewer. Qualities are in 0..1, as their intervals are.
    Raises ValueError as `parts` does.
    """
    every, table = parts(rows), dict[str, dict[str, Any]]()
    size = min([budget, *(sum(len(row["text"]) for row in run) for found in every.values() for run in found.values())])
    longest = float(np.quantile([len(text) for text in golden], 0.99))
    measured: dict[str, Quality] = {
        **quality,
        "stopped": lambda row: row["finish"] == "stop",
        "overrun": lambda row: len(row["text"]) > longest,
    }
    clusters, first = {row["id"]: row["item"] for row in rows}, dict[str, dict[str, float]]()
    for name, found in every.items():
        mine = [row for run in found.values() for row in run]
        columns = {key: by_id(mine, measure) for key, measure in measured.items()}
        table[name] = {
            "runs": len(found),
            "tokens": float(np.mean([row["n_new"] for row in mine])),
            "characters": size,
            **spread(found, size, draws, seed),
            **{k: intervals.share([*v.values()], [clusters[i] for i in v]).row() for k, v in columns.items()},
        }
        if first:
            table[name]["less_first"] = {k: intervals.paired(v, first[k], clusters, seed) for k, v in columns.items()}
        first = first or columns
    return table
