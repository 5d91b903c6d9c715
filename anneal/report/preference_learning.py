"""Preference learning on the page: the signal in pairs and rewards, the training curves, and the effect of alignment.

    effects     the aligned model beside the others: pass rates, defects, rewards, and what alignment costs
    pairs       the audit of the preference pairs before training
    reward      the reward model on held-out pairs
    samples     the rollouts of the tuned model and their rewards
    learning    the training run: curves, held-out figures of the first and the last state

Each part is a function of metrics and empty where its stage wrote nothing. The page leaves the section out where all
parts are empty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.report import artifacts, charts
from anneal.report.formatting import change, estimate, figure, listing, signed, span

Found = dict[str, Any]
ALL, SIDES = "all pairs", ("chosen", "rejected")
LEGEND = """characters: of chosen less rejected, the mean. AUC: how well the length, or a classifier of character \
n-grams, tells chosen from rejected texts of items that it has not seen; 0.5 is not at all, 1 is always. at equal \
length: from as many characters of either side of a pair."""


def section(now: Snapshot, _old: Snapshot) -> Markup:
    return html.join(effects(now), pairs(now), reward(now), samples(now), learning(now))


def correlation(found: Found | None) -> str:
    """A rank correlation with its interval, or why it has none."""
    rho, low, high, why = ((found or {}).get(key) for key in ("rho", "low", "high", "reason"))
    ends = f" [{signed(low)}, {signed(high)}]" if low is not None and high is not None else ""
    return f"{signed(rho)}{ends}{f' ({why})' if why else ''}"


def _auc(shown: Markup, value: float | None, limit: float | None) -> Markup:
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


def pairs(now: Snapshot) -> Markup:
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
        el("h3", "Pairs before training"),
        alarms([flag["line"] for flag in found.get("flags") or []]),
        table([*head, "at equal length"], [_strategy(name, part, limit) for name, part in every.items()]),
        el("p", words, class_="soft"),
        fold("n-grams that give a side away", shown) if grams else NONE,
    )


def reward(now: Snapshot) -> Markup:
    """The reward model on held-out pairs: in order, as certain as right, and not by length."""
    found: Found = now.metric("reward") or {}
    if not found.get("n"):
        return NONE
    accuracy, margin = found.get("accuracy") or {}, found.get("margin") or {}
    rows = [
        [
            ALL if kind == "all" else kind,
            figure((accuracy[kind] or {}).get("n")),
            estimate(accuracy[kind]),
            estimate(margin.get(kind), False),
        ]
        for kind in sorted(accuracy, key=lambda kind: (kind == "all", kind))
    ]
    told = [flag["line"] for flag in now.metric("pairs", "flags") or []]
    new = [line for line in found.get("warnings") or [] if line not in told]
    line = f"Rank correlation of its scores and the length within a type: {correlation(found.get('length'))}."
    return html.join(
        el("h3", "Reward model"),
        alarms([*(found.get("refusals") or []), *new]),
        table(["strategy", "n", "chosen above rejected", "margin"], rows),
        calibration(found.get("calibration") or {}),
        el("p", line),
        curves(artifacts.columns("reports/plots/reward.tsv")),
    )


def calibration(found: Found) -> Markup:
    """How often pairs called with some certainty are in order, beside how often they should be."""
    bins = [row for row in found.get("bins") or [] if row.get("p") is not None and row.get("right") is not None]
    if not bins:
        return NONE
    points = {"held-out pairs": [(row["p"], row["right"]) for row in bins], "ideal": [(0.5, 0.5), (1.0, 1.0)]}
    drawn = charts.lines("Chosen above rejected, by certainty", points, 160, 260, share=True)
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


def samples(now: Snapshot) -> Markup:
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
        el("h3", "Samples before training"),
        alarms(refused),
        *(el("p", line) for line in lines),
        table(["reward", "weight", "mean", "spread in a prompt", "prompts without spread"], rows),
    )


# Effects: the aligned model beside the others.

DEFECTS = {"banned": "banned words", "exaggerated": "listed exaggerations", "unsupported": "unsupported claims"}
PRICE = {
    "bits_per_byte": "bits per byte",
    "perplexity": "perplexity",
    "distinct_2": "distinct-2",
    "distinct_4": "distinct-4",
    "length": "length beside golden",
}
# What the state of a difference says in words, where more is better.
WORDS = {
    "higher": "higher in aligned",
    "lower": "lower in aligned",
    "open": "no difference shown",
    "equivalent": "as high in both",
}
ABOUT = """Differences are paired by text, or by the mean of a prompt's samples, and in points; ~ marks an interval \
that holds 0, and what it would have found 4 times in 5. They are many, and no p-value is corrected for that. Checks \
and rewards of exaggerated claims know the patterns of rules.exaggerated and nothing else."""
COST = """Bits per byte and perplexity are those of the golden texts: what the model has forgotten shows there. \
distinct: the share of different n-grams. length: that of all texts, over that of the golden ones."""


def words(found: Found | None, good: str) -> Markup:
    """A difference in words, marked where it goes the `good` way (higher or lower) or the other one."""
    state = (found or {}).get("state") or ""
    if state not in WORDS:
        return html.text((found or {}).get("reason") or "–")
    mark = None if state not in ("higher", "lower") else "mark good" if state == good else "mark bad"
    return el("span", WORDS[state], class_=mark)


def _row(now: Snapshot, name: str, texts: str, part: Found, good: str) -> list[Any]:
    systems, gap = part.get("systems") or {}, part.get("difference")
    return [name, texts, *(estimate(systems.get(s)) for s in now.systems), change(gap, True), words(gap, good)]


def passes(now: Snapshot, found: Found) -> Markup:
    """How many answers are right, by each share of the table."""
    head = ["share of answers that pass", *now.systems, "aligned − tuned", "in words"]
    rows = [
        [name.replace("_", " "), *_row(now, "", "", part, "higher")[2:]]
        for name, part in (found.get("passes") or {}).items()
    ]
    return table(head, rows) if rows else NONE


def defects(now: Snapshot, found: Found, drawn: Found) -> Markup:
    """How many texts have what alignment is meant to cut, in answers and in what the models draw."""
    head = ["share of texts with", "texts", *now.systems, "aligned − tuned", "in words"]
    parts = {"answers": found.get("defects") or {}, "rollouts": drawn.get("defects") or {}}
    rows = [
        _row(now, title, texts, part[name], "lower")
        for name, title in DEFECTS.items()
        for texts, part in parts.items()
        if part.get(name)
    ]
    about = "Answers: one for each test record. Rollouts: several drawn for each of some prompts."
    return html.join(table(head, rows), el("p", f"{about} {ABOUT}", class_="soft")) if rows else NONE


def rewards(drawn: Found) -> Markup:
    """The mean reward of the rollouts, and each function that it is made of."""
    if not drawn.get("reward"):
        return NONE
    every = {"all of them, weighted": drawn["reward"], **(drawn.get("functions") or {})}
    rows = []
    for name, part in every.items():
        systems, gap = part.get("systems") or {}, part.get("difference")
        means = [estimate(systems.get(system)) for system in ("aligned", "tuned")]
        rows.append([name, *means, change(gap, True), words(gap, "higher")])
    n = " and ".join(f"{figure(count)} of {system}" for system, count in (drawn.get("n") or {}).items())
    line = f"Mean reward of the rollouts, {n}, in per cent of the best one:"
    return html.join(el("p", line), table(["reward", "aligned", "tuned", "aligned − tuned", "in words"], rows))


def price(now: Snapshot, found: Found) -> Markup:
    """What was paid: forgetting, variety, length."""
    told = found.get("price") or {}
    rows = [[s, *(figure(told[s].get(key)) for key in PRICE)] for s in now.systems if told.get(s)]
    made = table(["", *PRICE.values()], rows)
    gap = now.metric("evaluate", "likelihood", "aligned", "less_tuned")
    lost = el("p", "bits per byte, aligned − tuned:", " ", change(gap)) if gap else NONE
    return html.join(el("h3", "Its price"), made, lost, el("p", COST, class_="soft")) if rows else NONE


def effects(now: Snapshot) -> Markup:
    """What it changed and its price; empty without an aligned model."""
    found: Found = now.metric("compare", "alignment") or {}
    drawn: Found = found.get("rollouts") or {}
    if "aligned" not in now.systems or not found:
        return NONE
    return html.join(
        el("h3", "What it changed"), passes(now, found), defects(now, found, drawn), rewards(drawn), price(now, found)
    )


# Learning: the curves of the training run.

Curves = dict[str, list[tuple[float, float]]]
# Charts of the training: columns that share one, and whether they are shares.
CHARTS = (
    (("accuracy", "validation_accuracy"), True),
    (("margin", "validation_margin"), False),
    (("logp_chosen", "logp_rejected"), False),
    (("reward",), False),
    (("zero_spread",), True),
    (("kl",), False),
    (("tokens",), False),
    (("cut",), True),
    (("loss", "validation_loss"), False),
)


def alarms(lines: Sequence[str]) -> Markup:
    return el("ul", *(el("li", line, class_="bad") for line in lines), class_="alerts") if lines else NONE


def curves(columns: Curves, extra: Sequence[str] = ()) -> Markup:
    """Small charts of the columns of a training, the `extra` ones as shares, and all of them as a table."""
    groups = [*CHARTS, *(((name,), True) for name in extra)]
    known = [({name: columns[name] for name in names if columns.get(name)}, share) for names, share in groups]
    drawn = [
        charts.lines(f"{next(iter(found))} by training step", found, 130, 260, share) for found, share in known if found
    ]
    if not drawn:
        return NONE
    steps = sorted({x for points in columns.values() for x, _ in points})
    values = {name: dict(points) for name, points in columns.items()}
    rows = [[figure(int(step)), *(figure(found.get(step)) for found in values.values())] for step in steps]
    twin = fold("as a table", table(["step", *columns], rows))
    return html.join(el("div", *(el("div", chart) for chart in drawn), class_="small broad"), twin)


def learning(now: Snapshot) -> Markup:
    """The run that made the aligned model: DPO on pairs or GRPO on rewards."""
    found: Found = now.metric("align") or {}
    if found.get("method") in (None, "none"):
        return NONE
    columns = artifacts.columns("reports/plots/align.tsv")
    names = (now.params.get("rewards") or {}).get("weights") or {}
    return html.join(
        el("h3", "Training by ", found["method"]),
        alarms(found.get("warnings") or []),
        _held_out(found),
        _ends(found),
        curves(columns, [name for name in names if name in columns]),
        fold("all of align.json", listing(found)),
    )


def _held_out(found: Found) -> Markup:
    """How often the chosen text of a held-out pair is the likelier one, before and after DPO."""
    before, after = found.get("before") or {}, found.get("after") or {}
    kinds = sorted(after.get("sum") or {}, key=lambda kind: (kind == "all", kind))
    places = [(side, way) for way in ("sum", "token") for side in (before, after)] + [(after, "reward")]
    rows = [
        [
            ALL if kind == "all" else kind,
            figure((after["sum"][kind] or {}).get("n")),
            *(estimate((side.get(way) or {}).get(kind)) for side, way in places),
        ]
        for kind in kinds
    ]
    if not rows:
        return NONE
    head = ["strategy", "n", "likelier before", "likelier after", "by token before", "by token after", "gained more"]
    words = "Share of held-out pairs whose chosen text is the likelier one, as a whole and by token. gained more: it "
    words += "gained more than the rejected one did, which is what DPO asks for."
    moved = [
        f"{side} {figure(part.get('before'))} → {figure(part.get('after'))}"
        for side, part in (found.get("logp") or {}).items()
    ]
    line = f"Log-probability of a token of held-out pairs, before → after: {', '.join(moved)}." if moved else ""
    return html.join(table(head, rows), el("p", words, class_="soft"), el("p", line) if line else NONE)


def _ends(found: Found) -> Markup:
    """What GRPO logged first and last: rewards, and what its samples are like."""
    first, last = found.get("first") or {}, found.get("last") or {}
    rows = [[name, figure(first.get(name)), figure(last.get(name))] for name in sorted(first.keys() | last.keys())]
    if not rows:
        return NONE
    counts = [figure(found.get(key)) for key in ("steps", "prompts", "samples")]
    words = f"{counts[0]} steps of {counts[1]} training prompts with {counts[2]} samples of each; logged means:"
    return html.join(el("p", words), table(["", "first", "last"], rows))
