"""The metrics of a blind ballot, for each of its two kinds: pairs of texts and scored single texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from anneal.human.rater_agreement import (
    FAST_MS,
    PREFERENCES,
    SCORES,
    Judged,
    inter_rater,
    intra_rater,
    join_votes,
    judge_agreement,
    preference,
    side_bias,
    sign_test,
    uncalibrated_reason,
    win_rate,
)
from anneal.human.vote_records import Vote
from anneal.records import Metrics, Row
from anneal.stats import intervals
from anneal.stats.agreement import compared

MAX_DISAGREEMENTS = 50  # listed in the metrics, largest first: the report shows them one by one
FAR = 2  # points between a rater and the judge from which a score is listed


def _vote_counts(key: Mapping[str, Any], votes: Sequence[Vote], rows: Sequence[Row], ballot: str) -> Metrics:
    """The metrics that both kinds begin with: how many votes there are, and how many were skipped or too fast."""
    on_ballot = [vote for vote in votes if vote.sheet == ballot]
    return {
        "sheet": ballot[:16],
        "question": key["question"],
        "raters": len({row["rater"] for row in rows}),
        "votes": len(rows),
        "skipped": sum(vote.choice == "skip" for vote in on_ballot),
        "other_sheets": len(votes) - len(on_ballot),
        "fast": sum(row["ms"] < FAST_MS for row in rows),
    }


def pair_metrics(
    key: Mapping[str, Any], votes: Sequence[Vote], judged: Judged, ballot: str, tie: float, seed: int
) -> Metrics:
    """Win rates with ties as halves, sign tests, attention checks, side bias, and agreement of raters and judge.

    `ballot` is the id of the ballot and `tie` the distance in points up to which two scores of the judge are a tie.
    """
    rows = join_votes(key, (vote for vote in votes if vote.sheet == ballot))
    first_votes = [row for row in rows if row["role"] == "vote"]
    checks = [row for row in rows if row["role"] == "identical"]
    pairs: dict[str, Metrics] = {}
    for systems in key["pairs"]:
        pair = ":".join(systems)
        pair_rows = [row for row in first_votes if row["pair"] == pair]
        counts = Counter(preference(row["value"]) for row in pair_rows)
        pairs[pair] = {
            "win": win_rate([row["value"] for row in pair_rows], [row["item"] for row in pair_rows]),
            "calls": {name: counts[name] for name in PREFERENCES},
            "records": len({row["record"] for row in pair_rows}),
            "sign": sign_test(pair_rows),
            "reasons": dict(Counter(reason for row in pair_rows for reason in row["reasons"])),
        }
    judge, disagreements = judge_agreement(first_votes, judged, tie, seed)
    return {
        **_vote_counts(key, votes, rows, ballot),
        "pairs": pairs,
        "left_out": key["left_out"],
        "sides": side_bias(rows),
        "identical": {"n": len(checks), "tie": sum(row["choice"] == "tie" for row in checks)},
        "within": intra_rater([row for row in rows if row["role"] != "identical"], PREFERENCES, False, seed),
        "between": inter_rater(first_votes, PREFERENCES, False),
        "judge": judge,
        "disagreements": disagreements[:MAX_DISAGREEMENTS],
    }


def _judge_score(judged: Judged, row: Row) -> int | None:
    """The judge's score of the text and dimension that a rater scored; None where there is none."""
    judgement = judged.get((row["sides"][0], row["record"]), {})
    score: int | None = judgement.get("dims", {}).get(row["dim"], {}).get("score")
    return score


def _score_agreement(scored: Sequence[tuple[Row, int]], seed: int) -> Metrics:
    """Agreement of the raters' scores with the judge's, quadratically weighted, over (vote, judge's score)."""
    rater_scores = [row["value"] for row, _ in scored]
    judge_scores = [score for _, score in scored]
    return compared(rater_scores, judge_scores, SCORES, [row["item"] for row, _ in scored], seed, quadratic=True)


def label_metrics(key: Mapping[str, Any], votes: Sequence[Vote], judged: Judged, ballot: str, seed: int) -> Metrics:
    """Mean scores of the raters by system, and the judge's agreement with them by dimension and over all."""
    rows = join_votes(key, (vote for vote in votes if vote.sheet == ballot))
    first_votes = [row for row in rows if row["role"] == "vote"]
    scored = [(row, score) for row in first_votes if (score := _judge_score(judged, row)) is not None]
    dims: dict[str, Metrics] = {}
    for dim in sorted({row["dim"] for row in first_votes}):
        part = [(row, score) for row, score in scored if row["dim"] == dim]
        dims[dim] = _score_agreement(part, seed)
        dims[dim]["people"] = fmean(row["value"] for row, _ in part) if part else None
        dims[dim]["judge"] = fmean(score for _, score in part) if part else None
    systems = {}
    for system in key["systems"]:
        system_rows = [row for row in first_votes if row["sides"] == [system]]
        mean = intervals.mean([row["value"] for row in system_rows], [row["item"] for row in system_rows])
        systems[system] = mean.row()
    overall = _score_agreement(scored, seed)
    # Calibration counts texts, however many dimensions of each were scored.
    n_texts = len({(row["record"], row["sides"][0]) for row, _ in scored})
    return {
        **_vote_counts(key, votes, rows, ballot),
        "systems": systems,
        "dims": dims,
        "judge": {
            **overall,
            "texts": n_texts,
            "unscored": len(first_votes) - len(scored),
            "uncalibrated": uncalibrated_reason({**overall, "n": n_texts}),
        },
        "within": intra_rater(rows, SCORES, True, seed),
        "between": inter_rater(first_votes, SCORES, True),
        "disagreements": _far_scores(scored)[:MAX_DISAGREEMENTS],
    }


def _far_scores(scored: Sequence[tuple[Row, int]]) -> list[Row]:
    """The votes at least FAR points from the judge's score, largest distance first."""
    disagreements = [
        {
            **{name: row[name] for name in ("record", "type", "dim", "rater")},
            "system": row["sides"][0],
            "people": row["value"],
            "judge": score,
        }
        for row, score in scored
        if abs(row["value"] - score) >= FAR
    ]
    return sorted(disagreements, key=lambda row: (-abs(row["people"] - row["judge"]), row["record"], row["dim"]))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _p_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _with_interval(metrics: Metrics, name: str) -> str:
    return f"{_number(metrics[name])} [{_number(metrics['low'])}, {_number(metrics['high'])}]"


def summary_lines(kind: str, metrics: Metrics) -> list[str]:
    """For the terminal: each number of one kind of ballot with its n and its interval."""
    lines = [f"{kind}: {metrics['votes']} votes of {metrics['raters']} raters, {metrics['skipped']} skipped"]
    for pair, part in metrics.get("pairs", {}).items():
        win = part["win"]
        lines.append(
            f"  {pair}: first wins {_with_interval(win, 'mean')}, ties as halves, n={win['n']} votes on "
            f"{win['clusters']} items; sign test over items p={_p_value(part['sign']['p'])}"
        )
    for system, part in metrics.get("systems", {}).items():
        lines.append(f"  {system}: mean score {_with_interval(part, 'mean')}, n={part['n']}")
    if "sides" in metrics:
        sides = metrics["sides"]
        checks = metrics["identical"]
        lines.append(
            f"  left side {_with_interval(sides, 'share')}, p={_p_value(sides['p'])}; attention checks called a tie: "
            f"{checks['tie']} of {checks['n']}; votes in under a second: {metrics['fast']}"
        )
    within = metrics["within"]
    lines.append(
        f"  raters with themselves: kappa {_number(within['kappa'])} (agreement {_number(within['agreement'])}, "
        f"n={within['n']}); with each other: alpha {_number(metrics['between']['alpha'])}"
    )
    judge = metrics["judge"]
    warning = f"; UNCALIBRATED: {judge['uncalibrated']}" if judge["uncalibrated"] else ""
    lines.append(
        f"  raters with the judge: kappa {_with_interval(judge, 'kappa')} (agreement {_number(judge['agreement'])}, "
        f"n={judge['n']}){warning}"
    )
    return lines
