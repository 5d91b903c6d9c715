"""The report's section about preference learning: its data, its training, and its effect.

    effects     the aligned model beside the others: pass rates, defects, rewards, and the cost of alignment
    pairs       the audit of the preference pairs before training
    reward      the reward model on held-out pairs
    samples     the rollouts of the tuned model and their rewards
    learning    the training run: curves, held-out metrics before and after it

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
from anneal.records import Metrics
from anneal.report import artifacts, charts
from anneal.report.formatting import change, estimate, figure, listing, signed, span

ALL = "all pairs"
SIDES = ("chosen", "rejected")
TOTAL = "weighted sum"  # of the rewards
LEGEND = """characters: mean length of chosen minus rejected. AUC: how well the length, or a classifier of character \
n-grams, separates chosen from rejected texts of unseen items; 0.5 is chance, 1 is perfect. at equal length: as \
many random positions from either side of a pair."""


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """All parts, the effect first."""
    return html.join(effects(now), pairs(now), reward(now), samples(now), learning(now))


def correlation(metrics: Metrics | None) -> str:
    """A rank correlation with its interval, or the reason for its absence."""
    rho, low, high, why = ((metrics or {}).get(key) for key in ("rho", "low", "high", "reason"))
    ends = f" [{signed(low)}, {signed(high)}]" if low is not None and high is not None else ""
    return f"{signed(rho)}{ends}{f' ({why})' if why else ''}"


def _auc(shown: Markup, value: float | None, limit: float | None) -> Markup:
    """An AUC as a cell, red above the limit."""
    if value is None or limit is None or value <= limit:
        return shown
    return el("span", shown, class_="mark bad")


def _strategy(name: str, part: Metrics, limit: float | None) -> list[Any]:
    """One row of the audit: counts, the length shortcut, the n-gram shortcut."""
    length = part.get("length") or {}
    grams = part.get("ngrams") or {}
    equal = grams.get("equal") or {}
    length_auc = length.get("auc")
    # An AUC near 0 identifies a side as well as one near 1: always shorter, always longer.
    strength = None if length_auc is None else max(length_auc, 1 - length_auc)
    by_length = _auc(html.text(figure(length_auc)), strength, limit)
    by_grams = _auc(span(grams.get("auc"), grams.get("low"), grams.get("high")), grams.get("auc"), limit)
    counts = f"{figure(length.get('longer'))} / {figure(length.get('shorter'))}"
    gap = span(length.get("mean"), length.get("low"), length.get("high"))
    cells = [counts, gap, by_length, by_grams, span(equal.get("auc"), equal.get("low"), equal.get("high"))]
    return [name, figure(part.get("n")), figure(part.get("share"), True), *cells]


def pairs(now: Snapshot) -> Markup:
    """The audit of the pairs: shortcuts that identify the chosen text without its content."""
    metrics: Metrics = now.metric("pairs") or {}
    if not metrics.get("n"):
        return NONE
    limit = (now.params.get("audit") or {}).get("max_shortcut_auc")
    strategies: Metrics = metrics.get("strategies") or {}
    parts = dict(strategies)
    if len(strategies) != 1 and metrics.get("all"):
        parts[ALL] = metrics["all"]
    head = ["strategy", "n", "share", "chosen longer / shorter", "characters", "AUC of length", "AUC of n-grams"]
    ngram_rows = [
        [name, json.dumps(top["ngram"], ensure_ascii=False), *(figure(top.get(key)) for key in SIDES)]
        for name, part in strategies.items()
        for top in (part.get("ngrams") or {}).get("top") or []
    ]
    words = f"{LEGEND} Red marks values above audit.max_shortcut_auc, {figure(limit)}." if limit is not None else LEGEND
    ngram_table = table(
        ["strategy", "n-gram", "chosen texts with it", "rejected texts with it"], ngram_rows, class_="words"
    )
    return html.join(
        el("h3", "Pairs before training"),
        warning_list([flag["line"] for flag in metrics.get("flags") or []]),
        table([*head, "at equal length"], [_strategy(name, part, limit) for name, part in parts.items()]),
        el("p", words, class_="soft"),
        fold("n-grams that identify a side", ngram_table) if ngram_rows else NONE,
    )


def reward(now: Snapshot) -> Markup:
    """The reward model on held-out pairs: accuracy, margin, calibration, and correlation with length."""
    metrics: Metrics = now.metric("reward") or {}
    if not metrics.get("n"):
        return NONE
    accuracy = metrics.get("accuracy") or {}
    margin = metrics.get("margin") or {}
    rows = [
        [
            ALL if kind == "all" else kind,
            figure((accuracy[kind] or {}).get("n")),
            estimate(accuracy[kind]),
            estimate(margin.get(kind), False),
        ]
        for kind in sorted(accuracy, key=lambda kind: (kind == "all", kind))
    ]
    audit_lines = [flag["line"] for flag in now.metric("pairs", "flags") or []]
    new_lines = [line for line in metrics.get("warnings") or [] if line not in audit_lines]
    line = f"Rank correlation of score and length within a type: {correlation(metrics.get('length'))}."
    return html.join(
        el("h3", "Reward model"),
        warning_list([*(metrics.get("refusals") or []), *new_lines]),
        table(["strategy", "n", "chosen above rejected", "margin"], rows),
        calibration(metrics.get("calibration") or {}),
        el("p", line),
        curves(artifacts.columns("reports/plots/reward.tsv")),
    )


def calibration(metrics: Metrics) -> Markup:
    """The calibration curve: the share of pairs in order by the confidence of the reward model, and a perfect curve."""
    bins = [row for row in metrics.get("bins") or [] if row.get("p") is not None and row.get("right") is not None]
    if not bins:
        return NONE
    points = {"held-out pairs": [(row["p"], row["right"]) for row in bins], "ideal": [(0.5, 0.5), (1.0, 1.0)]}
    chart = charts.lines("Chosen above rejected, by confidence", points, 160, 260, share=True)
    rows = [
        [
            f"{row['from']:.0%} – {row['to']:.0%}",
            figure(row.get("n")),
            figure(row["p"], True),
            figure(row["right"], True),
        ]
        for row in bins
    ]
    twin = fold("as a table", table(["confidence", "n", "mean confidence", "chosen above rejected"], rows))
    words = (
        "Calibration of the confidence of a pair, the sigmoid of its score difference: expected calibration error "
        f"{figure(metrics.get('ece'))}, Brier score {figure(metrics.get('brier'))}; a constant confidence of 0.5 has a "
        "Brier score of 0.25."
    )
    return html.join(el("p", words), el("div", el("div", chart), class_="small broad"), twin)


def samples(now: Snapshot) -> Markup:
    """Rollouts of the tuned model and their rewards: the training signal of GRPO."""
    metrics: Metrics = now.metric("rollout/tuned") or {}
    if not metrics.get("n"):
        return NONE
    zero = metrics.get("zero_spread") or {}
    weights = (now.params.get("rewards") or {}).get("weights") or {}
    total = {**(metrics.get("reward") or {}), "spread": metrics.get("spread"), "zero_spread": zero}
    rows = []
    for name, part in {**(metrics.get("functions") or {}), TOTAL: total}.items():
        zero_share = (part.get("zero_spread") or {}).get("share")
        cells = [estimate(part), figure(part.get("spread")), figure(zero_share, True)]
        rows.append([name, figure(weights.get(name)), *cells])
    line = (
        f"{figure(metrics.get('samples'))} samples of tuned for each of {figure(metrics['n'])} held-out prompts. In "
        f"{figure(zero.get('n'))} of these prompts ({figure(zero.get('share'), True)}) all samples have the same "
        f"reward and give no training signal: {figure(zero.get('full'))} the best reward throughout, "
        f"{figure(zero.get('same'))} one text."
    )
    lines = [line, f"Rank correlation of reward and length within a prompt: {correlation(metrics.get('length'))}."]
    signal: Metrics = now.metric("compare", "alignment", "signal") or {}
    if signal.get("judged"):
        counts = f"{figure(signal['scored'])} of {figure(signal.get('judged'))} judged samples have a score"
        lines.append(f"Rank correlation of reward and judge score within a prompt: {correlation(signal)}; {counts}.")
    refusals = [f"unsuitable for training: {line}" for line in metrics.get("refusals") or []]
    return html.join(
        el("h3", "Samples before training"),
        warning_list(refusals),
        *(el("p", line) for line in lines),
        table(["reward", "weight", "mean", "spread within a prompt", "prompts without spread"], rows),
    )


# Effects: the aligned model beside the others.

DEFECTS = {"banned": "banned words", "exaggerated": "listed exaggerations", "unsupported": "unsupported claims"}
PRICE = {
    "bits_per_byte": "bits per byte",
    "perplexity": "perplexity",
    "distinct_2": "distinct-2",
    "distinct_4": "distinct-4",
    "length": "length relative to golden",
}
# The words for the state of a difference.
STATES = {
    "higher": "higher in aligned",
    "lower": "lower in aligned",
    "open": "no difference shown",
    "equivalent": "equivalent in both",
}
ABOUT = """Differences are paired by text, or by the mean of a prompt's samples, in percentage points; ~ marks an \
interval that contains 0; MDE: minimum detectable effect at 80% power. No p-value is corrected for the number of \
comparisons. Checks and rewards of exaggerated claims match the patterns of rules.exaggerated only."""
COST = """Bits per byte and perplexity are measured on the golden texts and show forgetting. distinct: the share of \
distinct n-grams. length: the length of all texts over that of the golden texts."""


def state_words(difference: Metrics | None, good: str) -> Markup:
    """A difference in words; the mark is good where its direction is `good` (higher or lower), else bad."""
    state = (difference or {}).get("state") or ""
    if state not in STATES:
        return html.text((difference or {}).get("reason") or "–")
    mark = None
    if state in ("higher", "lower"):
        mark = "mark good" if state == good else "mark bad"
    return el("span", STATES[state], class_=mark)


def _row(now: Snapshot, name: str, texts: str, part: Metrics, good: str) -> list[Any]:
    systems, gap = part.get("systems") or {}, part.get("difference")
    return [name, texts, *(estimate(systems.get(s)) for s in now.systems), change(gap, True), state_words(gap, good)]


def passes(now: Snapshot, metrics: Metrics) -> Markup:
    """Pass rates of the answers by check."""
    head = ["share of answers that pass", *now.systems, "aligned − tuned", "in words"]
    rows = [
        [name.replace("_", " "), *_row(now, "", "", part, "higher")[2:]]
        for name, part in (metrics.get("passes") or {}).items()
    ]
    return table(head, rows) if rows else NONE


def defects(now: Snapshot, metrics: Metrics, rollouts: Metrics) -> Markup:
    """Shares of texts with the defects that alignment is meant to reduce, in answers and in rollouts."""
    head = ["share of texts with", "texts", *now.systems, "aligned − tuned", "in words"]
    parts = {"answers": metrics.get("defects") or {}, "rollouts": rollouts.get("defects") or {}}
    rows = [
        _row(now, title, texts, part[name], "lower")
        for name, title in DEFECTS.items()
        for texts, part in parts.items()
        if part.get(name)
    ]
    about = "Answers: one for each test record. Rollouts: several samples for each of a subset of prompts."
    return html.join(table(head, rows), el("p", f"{about} {ABOUT}", class_="soft")) if rows else NONE


def rewards(rollouts: Metrics) -> Markup:
    """The mean reward of the rollouts, and the mean of each reward function."""
    if not rollouts.get("reward"):
        return NONE
    parts = {TOTAL: rollouts["reward"], **(rollouts.get("functions") or {})}
    rows = []
    for name, part in parts.items():
        systems, gap = part.get("systems") or {}, part.get("difference")
        means = [estimate(systems.get(system)) for system in ("aligned", "tuned")]
        rows.append([name, *means, change(gap, True), state_words(gap, "higher")])
    n = " and ".join(f"{figure(count)} of {system}" for system, count in (rollouts.get("n") or {}).items())
    line = f"Mean reward of the rollouts, {n}, in per cent of the maximum:"
    return html.join(el("p", line), table(["reward", "aligned", "tuned", "aligned − tuned", "in words"], rows))


def cost(now: Snapshot, metrics: Metrics) -> Markup:
    """The cost of alignment: forgetting, loss of variety, change of length."""
    parts = metrics.get("price") or {}
    rows = [[s, *(figure(parts[s].get(key)) for key in PRICE)] for s in now.systems if parts.get(s)]
    gap = now.metric("evaluate", "likelihood", "aligned", "less_tuned")
    forgetting = el("p", "bits per byte, aligned − tuned:", " ", change(gap)) if gap else NONE
    if not rows:
        return NONE
    values = table(["", *PRICE.values()], rows)
    return html.join(el("h3", "Cost of alignment"), values, forgetting, el("p", COST, class_="soft"))


def effects(now: Snapshot) -> Markup:
    """Changes of the aligned model against the tuned one, with their cost; empty without an aligned model."""
    metrics: Metrics = now.metric("compare", "alignment") or {}
    rollouts: Metrics = metrics.get("rollouts") or {}
    if "aligned" not in now.systems or not metrics:
        return NONE
    return html.join(
        el("h3", "Effect of alignment"),
        passes(now, metrics),
        defects(now, metrics, rollouts),
        rewards(rollouts),
        cost(now, metrics),
    )


# Learning: the curves of the training run.

Curves = dict[str, list[tuple[float, float]]]
# Charts of the training: the columns of one chart, and whether they are shares.
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


def warning_list(lines: Sequence[str]) -> Markup:
    """Warnings as a red list; empty without lines."""
    return el("ul", *(el("li", line, class_="bad") for line in lines), class_="alerts") if lines else NONE


def curves(columns: Curves, extra: Sequence[str] = ()) -> Markup:
    """Small charts of the columns of a training, the `extra` ones as shares, and all of them as a table."""
    groups = [*CHARTS, *(((name,), True) for name in extra)]
    chart_list = []
    for names, share in groups:
        series = {name: columns[name] for name in names if columns.get(name)}
        if series:
            chart_list.append(charts.lines(f"{next(iter(series))} by training step", series, 130, 260, share))
    if not chart_list:
        return NONE
    steps = sorted({x for points in columns.values() for x, _ in points})
    values = {name: dict(points) for name, points in columns.items()}
    rows = [[figure(int(step)), *(figure(points.get(step)) for points in values.values())] for step in steps]
    twin = fold("as a table", table(["step", *columns], rows))
    return html.join(el("div", *(el("div", chart) for chart in chart_list), class_="small broad"), twin)


def learning(now: Snapshot) -> Markup:
    """The training of the aligned model: DPO on pairs or GRPO on rewards."""
    metrics: Metrics = now.metric("align") or {}
    if metrics.get("method") in (None, "none"):
        return NONE
    columns = artifacts.columns("reports/plots/align.tsv")
    names = (now.params.get("rewards") or {}).get("weights") or {}
    return html.join(
        el("h3", "Training by ", metrics["method"]),
        warning_list(metrics.get("warnings") or []),
        _held_out(metrics),
        _ends(metrics),
        curves(columns, [name for name in names if name in columns]),
        fold("all of align.json", listing(metrics)),
    )


def _held_out(metrics: Metrics) -> Markup:
    """The share of held-out pairs whose chosen text is the likelier one, before and after DPO."""
    before = metrics.get("before") or {}
    after = metrics.get("after") or {}
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
    head = ["strategy", "n", "likelier before", "likelier after", "per token before", "per token after", "gained more"]
    words = "Share of held-out pairs whose chosen text has the higher log-probability, in total and per token. gained "
    words += "more: its log-probability rose more than that of the rejected text, the objective of DPO."
    changes = [
        f"{side} {figure(part.get('before'))} → {figure(part.get('after'))}"
        for side, part in (metrics.get("logp") or {}).items()
    ]
    line = (
        f"Mean log-probability per token of held-out pairs, in nats, before → after: {', '.join(changes)}."
        if changes
        else ""
    )
    return html.join(table(head, rows), el("p", words, class_="soft"), el("p", line) if line else NONE)


def _ends(metrics: Metrics) -> Markup:
    """The first and the last values that GRPO logged: rewards and statistics of the samples."""
    first = metrics.get("first") or {}
    last = metrics.get("last") or {}
    rows = [[name, figure(first.get(name)), figure(last.get(name))] for name in sorted(first.keys() | last.keys())]
    if not rows:
        return NONE
    counts = [figure(metrics.get(key)) for key in ("steps", "prompts", "samples")]
    words = f"{counts[0]} steps with {counts[1]} prompts per step and {counts[2]} samples per prompt; logged means:"
    return html.join(el("p", words), table(["", "first", "last"], rows))
