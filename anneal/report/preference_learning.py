"""Preference learning on the page: what it changed, and before that whether pairs and rewards have anything to teach.

Each part is a function of metrics. Where its stage has made nothing it is empty; the page leaves the section out where
all of them are.
"""

from __future__ import annotations

import json
from typing import Any

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import Safe, el, fold, table
from anneal.report import artifacts, curves, effects
from anneal.report.formatting import estimate, figure, signed, span

NONE = Safe("")
Found = dict[str, Any]
ALL, SIDES = "all pairs", ("chosen", "rejected")
LEGEND = """characters: of chosen less rejected, the mean. AUC: how well the length, or a classifier of character \
n-grams, tells chosen from rejected texts of items that it has not seen; 0.5 is not at all, 1 is always. at equal \
length: from as many characters of either side of a pair."""


def section(now: Snapshot, _old: Snapshot) -> Safe:
    return html.join(effects.section(now), pairs(now), reward(now), samples(now), curves.section(now))


def correlation(found: Found | None) -> str:
    """A rank correlation with its interval, or why it has none."""
    rho, low, high, why = ((found or {}).get(key) for key in ("rho", "low", "high", "reason"))
    ends = f" [{signed(low)}, {signed(high)}]" if low is not None and high is not None else ""
    return f"{signed(rho)}{ends}{f' ({why})' if why else ''}"


def _auc(shown: Safe, value: float | None, limit: float | None) -> Safe:
    """Red above the limit."""
    return el("span", shown, class_="mark bad") if value is not None and limit is not None and value > limit else shown


def _strategy(name: str, part: Found, limit: float | None) -> list[Any]:
    length, grams = part.get("length") or {}, part.get("ngrams") or {}
    alone, equal = length.get("auc"), grams.get("equal") or {}
    # Always shorter gives a side away as well as always longer.
    sure = None if alone is None else max(alone, 1 - alone)
    by_length = _auc(html.text(figure(alone)), sure, limit)
    by_grams = _auc(span(grams.get("auc"), grams.get("low"), grams.get("high")), grams.get("auc"), limit)
    ways = f"{figure(length.get('longer'))} / {figure(length.get('shorter'))}"
    gap = span(length.get("mean"), length.get("low"), length.get("high"))
    cells = [ways, gap, by_length, by_grams, span(equal.get("auc"), equal.get("low"), equal.get("high"))]
    return [name, figure(part.get("n")), figure(part.get("share"), True), *cells]


def pairs(now: Snapshot) -> Safe:
    """The audit of the pairs: what tells chosen from rejected without reading."""
    found: Found = now.metric("pairs") or {}
    if not found.get("n"):
        return NONE
    limit = (now.params.get("audit") or {}).get("max_shortcut_auc")
    strategies: Found = found.get("strategies") or {}
    every = {**strategies, **({ALL: found["all"]} if len(strategies) != 1 and found.get("all") else {})}
    head = ["strategy", "n", "share", "chosen longer / shorter", "characters", "AUC of length", "AUC of n-grams"]
    grams = [
        [name, json.dumps(top["ngram"], ensure_ascii=False), *(figure(top.get(key)) for key in SIDES)]
        for name, part in strategies.items()
        for top in (part.get("ngrams") or {}).get("top") or []
    ]
    words = f"{LEGEND} Red is above audit.max_shortcut_auc, {figure(limit)}." if limit is not None else LEGEND
    shown = table(["strategy", "n-gram", "chosen texts with it", "rejected texts with it"], grams, class_="words")
    return html.join(
        el("h3", "Pairs before training"), curves.alarms([flag["line"] for flag in found.get("flags") or []]),
        table([*head, "at equal length"], [_strategy(name, part, limit) for name, part in every.items()]),
        el("p", words, class_="soft"), fold("n-grams that give a side away", shown) if grams else NONE,
    )  # fmt: skip


def reward(now: Snapshot) -> Safe:
    """The reward model on held-out pairs: in order, as certain as right, and not by length."""
    found: Found = now.metric("reward") or {}
    if not found.get("n"):
        return NONE
    accuracy, margin = found.get("accuracy") or {}, found.get("margin") or {}
    rows = [
        [ALL if kind == "all" else kind, figure((accuracy[kind] or {}).get("n")), estimate(accuracy[kind]),
         estimate(margin.get(kind), False)]
        for kind in sorted(accuracy, key=lambda kind: (kind == "all", kind))
    ]  # fmt: skip
    told = [flag["line"] for flag in now.metric("pairs", "flags") or []]
    new = [line for line in found.get("warnings") or [] if line not in told]
    line = f"Rank correlation of its scores and the length within a type: {correlation(found.get('length'))}."
    return html.join(
        el("h3", "Reward model"), curves.alarms([*(found.get("refusals") or []), *new]),
        table(["strategy", "n", "chosen above rejected", "margin"], rows), calibration(found.get("calibration") or {}),
        el("p", line), curves.charts(artifacts.columns("reports/plots/reward.tsv")),
    )  # fmt: skip


def calibration(found: Found) -> Safe:
    """How often pairs called with some certainty are in order, beside how often they should be."""
    bins = [row for row in found.get("bins") or [] if row.get("p") is not None and row.get("right") is not None]
    if not bins:
        return NONE
    points = {"held-out pairs": [(row["p"], row["right"]) for row in bins], "ideal": [(0.5, 0.5), (1.0, 1.0)]}
    drawn = html.lines("Chosen above rejected, by certainty", points, 160, 260, share=True)
    rows = [
        [
            f"{row['from']:.0%} – {row['to']:.0%}",
            figure(row.get("n")),
            figure(row["p"], True),
            figure(row["right"], True),
        ]
        for row in bins
    ]
    twin = fold("as a table", table(["certainty", "n", "its mean", "chosen above rejected"], rows))
    words = (
        "How often the certainty of a pair, the sigmoid of the difference of its scores, is earned: expected "
        f"calibration error {figure(found.get('ece'))}, Brier score {figure(found.get('brier'))}; one half of every "
        "pair has a Brier score of 0.25."
    )
    return html.join(el("p", words), el("div", el("div", drawn), class_="small broad"), twin)


def samples(now: Snapshot) -> Safe:
    """What the tuned model draws and how it is rewarded, as GRPO would find it."""
    found: Found = now.metric("rollout/tuned") or {}
    if not found.get("n"):
        return NONE
    zero, weights = found.get("zero_spread") or {}, (now.params.get("rewards") or {}).get("weights") or {}
    whole = {**(found.get("reward") or {}), "spread": found.get("spread"), "zero_spread": zero}
    rows = []
    for name, part in {**(found.get("functions") or {}), "all of them, weighted": whole}.items():
        alike = part.get("zero_spread") or {}
        cells = [estimate(part), figure(part.get("spread")), figure(alike.get("share"), True)]
        rows.append([name, figure(weights.get(name)), *cells])
    line = (
        f"{figure(found.get('samples'))} samples of tuned for each of {figure(found['n'])} held-out prompts. In "
        f"{figure(zero.get('n'))} of these prompts ({figure(zero.get('share'), True)}) all have one reward, which "
        f"teaches nothing: {figure(zero.get('full'))} the best throughout, {figure(zero.get('same'))} one text."
    )
    lines = [line, f"Rank correlation of reward and length inside the prompts: {correlation(found.get('length'))}."]
    signal: Found = now.metric("compare", "alignment", "signal") or {}
    if signal.get("judged"):
        counts = f"{figure(signal['scored'])} of {figure(signal.get('judged'))} judged samples have a score"
        lines.append(f"Rank correlation of reward and judge inside the prompts: {correlation(signal)}; {counts}.")
    refused = [f"not to be trained on: {line}" for line in found.get("refusals") or []]
    return html.join(
        el("h3", "Samples before training"), curves.alarms(refused), *(el("p", line) for line in lines),
        table(["reward", "weight", "mean", "spread in a prompt", "prompts without spread"], rows),
    )  # fmt: skip
