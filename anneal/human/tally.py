"""The numbers of a blind sheet: of pairs of texts, and of single texts that people scored as the judge does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from anneal.human.rater_agreement import (
    CALLS,
    FAST,
    SCORES,
    Judged,
    Row,
    between,
    calibrated,
    call,
    judge,
    rows,
    share,
    sides,
    sign,
    within,
)
from anneal.human.vote_records import Vote
from anneal.stats import intervals
from anneal.stats.agreement import compared

WORST = 50  # disagreements that the metrics list; the page is no place for more
FAR = 2  # points between a rater and the judge that are worth a look


def base(key: Mapping[str, Any], votes: Sequence[Vote], found: Sequence[Row], sheet: str) -> Row:
    """What every tally begins with: how much there is, and how much of it is to be trusted."""
    mine = [vote for vote in votes if vote.sheet == sheet]
    return {
        "sheet": sheet[:16],
        "question": key["question"],
        "raters": len({row["rater"] for row in found}),
        "votes": len(found),
        "skipped": sum(vote.choice == "skip" for vote in mine),
        "other_sheets": len(votes) - len(mine),
        "fast": sum(row["ms"] < FAST for row in found),
    }


def pairs(key: Mapping[str, Any], votes: Sequence[Vote], judged: Judged, sheet: str, tie: float, seed: int) -> Row:
    """Win rates (ties as halves), sign tests, attention, habits, agreement, and where judge and people differ."""
    found = rows(key, (vote for vote in votes if vote.sheet == sheet))
    real = [row for row in found if row["role"] == "vote"]
    same = [row for row in found if row["role"] == "identical"]
    made: dict[str, Row] = {}
    for pair in (":".join(names) for names in key["pairs"]):
        part = [row for row in real if row["pair"] == pair]
        counts = Counter(call(row["value"]) for row in part)
        made[pair] = {
            "win": share([row["value"] for row in part], [row["item"] for row in part]),
            "calls": {name: counts[name] for name in CALLS},
            "records": len({row["record"] for row in part}),
            "sign": sign(part),
            "reasons": dict(Counter(reason for row in part for reason in row["reasons"])),
        }
    machine, apart = judge(real, judged, tie, seed)
    return {
        **base(key, votes, found, sheet),
        "pairs": made,
        "left_out": key["left_out"],
        "sides": sides(found),
        "identical": {"n": len(same), "tie": sum(row["choice"] == "tie" for row in same)},
        "within": within([row for row in found if row["role"] != "identical"], CALLS, False, seed),
        "between": between(real, CALLS, False),
        "judge": machine,
        "disagreements": apart[:WORST],
    }


def _cell(judged: Judged, row: Row) -> int | None:
    """The judge's score of the dimension that a rater scored."""
    score: int | None = (
        judged.get((row["sides"][0], row["record"]), {}).get("dims", {}).get(row["dim"], {}).get("score")
    )
    return score


def label(key: Mapping[str, Any], votes: Sequence[Vote], judged: Judged, sheet: str, seed: int) -> Row:
    """Scores of people by system, and how far the judge agrees with them, by dimension and over all of them."""
    found = rows(key, (vote for vote in votes if vote.sheet == sheet))
    real = [row for row in found if row["role"] == "vote"]
    scored = [(row, score) for row in real if (score := _cell(judged, row)) is not None]
    dims: dict[str, Row] = {}
    for dim in sorted({row["dim"] for row in real}):
        part = [(row, score) for row, score in scored if row["dim"] == dim]
        people, machine = [row["value"] for row, _ in part], [score for _, score in part]
        dims[dim] = compared(people, machine, SCORES, [row["item"] for row, _ in part], seed, True)
        dims[dim] |= {"people": fmean(people), "judge": fmean(machine)} if part else {"people": None, "judge": None}
    systems = {}
    for system in key["systems"]:
        mine = [row for row in real if row["sides"] == [system]]
        systems[system] = intervals.mean([row["value"] for row in mine], [row["item"] for row in mine]).row()
    whole = compared(
        [row["value"] for row, _ in scored],
        [score for _, score in scored],
        SCORES,
        [row["item"] for row, _ in scored],
        seed,
        True,
    )
    # What counts is texts, however many dimensions of each were scored.
    texts = len({(row["record"], row["sides"][0]) for row, _ in scored})
    apart = [
        {
            **{name: row[name] for name in ("record", "type", "dim", "rater")},
            "system": row["sides"][0],
            "people": row["value"],
            "judge": score,
        }
        for row, score in scored
        if abs(row["value"] - score) >= FAR
    ]
    return {
        **base(key, votes, found, sheet),
        "systems": systems,
        "dims": dims,
        "judge": {
            **whole,
            "texts": texts,
            "unscored": len(real) - len(scored),
            "uncalibrated": calibrated({**whole, "n": texts}),
        },
        "within": within(found, SCORES, True, seed),
        "between": between(real, SCORES, True),
        "disagreements": sorted(apart, key=lambda r: (-abs(r["people"] - r["judge"]), r["record"], r["dim"]))[:WORST],
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _span(row: Row, name: str) -> str:
    return f"{_figure(row[name])} [{_figure(row['low'])}, {_figure(row['high'])}]"


def lines(kind: str, found: Row) -> list[str]:
    """What the terminal shows: each number with its n and its interval."""
    made = [f"{kind}: {found['votes']} votes of {found['raters']} raters, {found['skipped']} skipped"]
    for pair, part in found.get("pairs", {}).items():
        sure, p = part["win"], _p(part["sign"]["p"])
        made.append(
            f"  {pair}: first wins {_span(sure, 'mean')}, ties as halves, n={sure['n']} votes on "
            f"{sure['clusters']} items; sign test over items p={p}"
        )
    for system, part in found.get("systems", {}).items():
        made.append(f"  {system}: mean score {_span(part, 'mean')}, n={part['n']}")
    if "sides" in found:
        left, same = found["sides"], found["identical"]
        made.append(
            f"  left side {_span(left, 'share')}, p={_p(left['p'])}; identical pairs called a tie: "
            f"{same['tie']} of {same['n']}; under a second: {found['fast']}"
        )
    again, others = found["within"], found["between"]
    made.append(
        f"  with themselves: kappa {_figure(again['kappa'])} (agreement {_figure(again['agreement'])}, "
        f"n={again['n']}); with each other: alpha {_figure(others['alpha'])}"
    )
    machine, why = found["judge"], found["judge"]["uncalibrated"]
    made.append(
        f"  with the judge: kappa {_span(machine, 'kappa')} (agreement {_figure(machine['agreement'])}, "
        f"n={machine['n']}){f'; UNCALIBRATED: {why}' if why else ''}"
    )
    return made
