"""Win rate, side bias and agreement of the raters, from their votes joined with the key of the ballot.

Names of raters stay in their own files: the metrics, which are committed, call them r1, r2, ... in the order of names.

A joined row is an entry of the key with `rater`, `choice`, `ms`, `reasons` and `value`: for a pair of texts 1 where the
first system of the pair won, 0 where the second won and 0.5 for a tie; for a single text its score, 1 to 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from anneal.human.vote_records import Vote
from anneal.records import Metrics, Row
from anneal.stats import intervals
from anneal.stats.agreement import alpha, compared, kappa

PREFERENCES = ("first", "tie", "second")  # labels of a pair, by the system that won
SCORES = (1, 2, 3, 4, 5)  # labels of a single text
FAST_MS = 1000  # milliseconds; nobody reads two texts in less, so that such votes are counted
# A judge counts as calibrated from this many texts with both a vote and a score, and from this lower end of the
# interval of kappa. At 50 texts, two even labels and an agreement of 75%, the standard error of kappa is 0.12. Above
# 0.4, agreement is moderate on the scale of Landis and Koch (1977), below it fair or slight.
MIN_TEXTS = 50
MIN_KAPPA = 0.4
Judged = Mapping[tuple[str, str], Mapping[str, Any]]  # (system, record) -> judgement of the text on the ballot


def join_votes(key: Mapping[str, Any], votes: Iterable[Vote]) -> list[Row]:
    """A joined row for each vote on an entry of the key, skips left out, in the order of raters and entries."""
    entries = {entry["id"]: entry for entry in key["entries"]}
    valid = [vote for vote in votes if vote.id in entries and vote.choice != "skip"]
    valid.sort(key=lambda vote: (vote.rater, vote.id))
    aliases = {rater: f"r{i}" for i, rater in enumerate(sorted({vote.rater for vote in valid}), 1)}
    rows = []
    for vote in valid:
        row: Row = {**entries[vote.id], "rater": aliases[vote.rater], "choice": vote.choice, "ms": vote.ms}
        row["reasons"] = sorted(vote.reasons)
        if key["kind"] == "pairs":
            pair = next((systems for systems in key["pairs"] if set(row["sides"]) <= set(systems)), key["pairs"][0])
            left, right = row["sides"]
            winner = {"left": left, "right": right}.get(vote.choice)
            row["pair"] = ":".join(pair)
            row["value"] = 0.5 if winner is None else float(winner == pair[0])
        else:
            row["value"] = int(vote.choice)
        rows.append(row)
    return rows


def preference(value: float) -> str:
    """The label of a pair for the value of a vote, or for the mean of several."""
    return "first" if value > 0.5 else "second" if value < 0.5 else "tie"


def win_rate(values: Sequence[float], clusters: Sequence[str]) -> Metrics:
    """Mean of values between 0 and 1 with a 95% Wilson interval on the effective number of votes.

    As `intervals.share`, except where the standard error is 0: no design effect can be estimated there, and each
    cluster counts once, since ten raters of one text are not ten texts. The interval is None for one cluster.
    """
    n = len(values)
    n_clusters = len(set(clusters))
    if not n:
        return {"n": 0, "clusters": 0, "mean": None, "low": None, "high": None}
    mean = fmean(values)
    error = intervals.standard_error(values, clusters)
    n_effective = min(mean * (1 - mean) / error**2, float(n)) if error else float(n_clusters)
    low, high = None, None
    if n_clusters > 1:
        low, high = intervals.wilson(mean, n_effective, intervals.quantile(n_clusters, (1 + intervals.LEVEL) / 2))
    return {"n": n, "clusters": n_clusters, "mean": mean, "low": low, "high": high}


def binomial_p(successes: int, n: int) -> float | None:
    """Exact two-sided p-value of `successes` in `n` trials of probability 1/2; None without trials."""
    from scipy.stats import binomtest

    return float(binomtest(successes, n).pvalue) if n else None


def sign_test(rows: Sequence[Row]) -> Metrics:
    """Sign test over items: those whose votes favour the first system against those that favour the second."""
    balance: Counter[str] = Counter()
    for row in rows:
        balance[row["item"]] += row["value"] - 0.5
    wins = sum(total > 0 for total in balance.values())
    losses = sum(total < 0 for total in balance.values())
    return {"wins": wins, "losses": losses, "even": len(balance) - wins - losses, "p": binomial_p(wins, wins + losses)}


def side_bias(rows: Sequence[Row]) -> Metrics:
    """Share of the left side among the votes for a side. Systems are left equally often, so that no bias gives 0.5."""
    counts = Counter(row["choice"] for row in rows)
    left = counts["left"]
    n = counts["left"] + counts["right"]
    low, high = intervals.wilson(left / n, n) if n else (None, None)
    return {"n": n, "left": left, "share": left / n if n else None, "low": low, "high": high, "p": binomial_p(left, n)}


def _label(row: Row, labels: Sequence[Any]) -> Any:
    """The vote as one of `labels`, which are PREFERENCES or SCORES."""
    return preference(row["value"]) if labels is PREFERENCES else row["value"]


def intra_rater(rows: Sequence[Row], labels: Sequence[Any], quadratic: bool, seed: int) -> Metrics:
    """Agreement of the raters with themselves, over the questions that they were asked twice."""
    by_entry = {(row["rater"], row["id"]): row for row in rows}
    twice = []
    for row in rows:
        original = by_entry.get((row["rater"], row["of"])) if row["of"] else None
        if original is not None:
            twice.append((original, row))
    first = [_label(original, labels) for original, _ in twice]
    second = [_label(repeat, labels) for _, repeat in twice]
    items = [repeat["item"] for _, repeat in twice]
    # The sides of a repeat are swapped: the same side twice is a habit and not an opinion of the texts.
    same_side = sum(
        original["choice"] == repeat["choice"] and original["choice"] in ("left", "right") for original, repeat in twice
    )
    return {**compared(first, second, labels, items, seed, quadratic), "same_side": same_side}


def inter_rater(rows: Sequence[Row], labels: Sequence[Any], quadratic: bool) -> Metrics:
    """Agreement between raters: kappa of each two, alpha of all, and the ceiling for any judge.

    The ceiling is the mean agreement of two raters over the entries that both answered.
    """
    by_entry: dict[str, dict[str, Any]] = {}  # entry -> rater -> label
    for row in rows:
        by_entry.setdefault(row["id"], {})[row["rater"]] = _label(row, labels)
    raters = sorted({row["rater"] for row in rows})
    pairs = {}
    n_equal = 0
    n_compared = 0
    for i, rater in enumerate(raters):
        for other in raters[i + 1 :]:
            shared = [(votes[rater], votes[other]) for votes in by_entry.values() if {rater, other} <= votes.keys()]
            if not shared:
                continue
            a, b = zip(*shared, strict=True)
            equal = sum(x == y for x, y in shared)
            n_equal += equal
            n_compared += len(shared)
            pairs[f"{rater}:{other}"] = {
                "n": len(shared),
                "agreement": equal / len(shared),
                "kappa": kappa(a, b, labels, quadratic),
            }
    return {
        "raters": len(raters),
        "pairs": pairs,
        "ceiling": n_equal / n_compared if n_compared else None,
        "alpha": alpha([list(votes.values()) for votes in by_entry.values()], labels, quadratic),
    }


def uncalibrated_reason(agreement: Metrics) -> str:
    """Why the judge's numbers are uncalibrated, from `n` texts and `low` of kappa; "" for a calibrated judge."""
    if agreement["n"] < MIN_TEXTS:
        return f"{agreement['n']} texts with both a vote and a score; {MIN_TEXTS} are needed"
    if agreement["low"] is None or agreement["low"] < MIN_KAPPA:
        return f"the interval of kappa reaches below {MIN_KAPPA}"
    return ""


def vote_from_scores(scores: Sequence[float], tie: float) -> float:
    """The value of the vote that two scores imply; scores at most `tie` apart are a tie."""
    gap = round(scores[0] - scores[1], 6)  # in binary, 1.1 - 1.05 is a little more than 0.05
    return 0.5 if abs(gap) <= tie else float(gap > 0)


def judge_agreement(rows: Sequence[Row], judged: Judged, tie: float, seed: int) -> tuple[Metrics, list[Row]]:
    """Agreement of the judge with the majority of raters on each pair of texts, and the pairs on which they differ."""
    votes_by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        votes_by_pair.setdefault((row["pair"], row["record"]), []).append(row)
    rater_labels: list[str] = []
    judge_labels: list[str] = []
    items: list[str] = []
    disagreements: list[Row] = []
    for (pair, record), votes in sorted(votes_by_pair.items()):
        pair_scores = [judged.get((system, record), {}).get("score") for system in pair.split(":")]
        scores = [score for score in pair_scores if score is not None]
        if len(scores) < 2:
            continue
        value = fmean(row["value"] for row in votes)
        judge_value = vote_from_scores(scores, tie)
        rater_labels.append(preference(value))
        judge_labels.append(preference(judge_value))
        items.append(votes[0]["item"])
        if rater_labels[-1] != judge_labels[-1]:
            disagreements.append(
                {
                    "record": record,
                    "type": votes[0]["type"],
                    "pair": pair,
                    "people": value,
                    "votes": len(votes),
                    "judge": judge_value,
                    "scores": scores,
                    "reasons": sorted({reason for row in votes for reason in row["reasons"]}),
                }
            )
    agreement = compared(rater_labels, judge_labels, PREFERENCES, items, seed)
    agreement |= {"unscored": len(votes_by_pair) - len(rater_labels), "uncalibrated": uncalibrated_reason(agreement)}
    # Opposite preferences first, then a preference against a tie.
    disagreements.sort(key=lambda row: (-abs(row["people"] - row["judge"]), row["record"], row["pair"]))
    return agreement, disagreements
