"""The headline of the report: the result in one sentence, withheld where judge or noise do not support it."""

from __future__ import annotations

from typing import Any

from anneal.history import dvc_lock, seed_noise
from anneal.history.revision import Snapshot
from anneal.report.formatting import chance, figure, signed, told
from anneal.stats import paired

# Defects that any judge must find: an empty text, a truncated one, a loop. Errors of fact are harder and not listed.
PLAIN = ("null", "truncated", "looped")
NO_CARD = "no judge card for this judge: `make judge-card`"
# What a headline is about, by the key of compare.json that holds its difference.
GAPS = {"difference": ("tuned", "base"), "aligned_difference": ("aligned", "tuned")}


def judges(now: Snapshot) -> dict[str, str]:
    """rubric -> judge_id of the scores that are compared."""
    return now.metric("compare", "judge", "judge_ids") or now.metric("compare", "judge_ids") or {}


def carded(now: Snapshot) -> bool:
    """Whether the judge card is of this judge; every rubric that gave a score must be on it."""
    ids, card = judges(now), now.metric("card", "judge_ids") or {}
    told = [(each.get("lower") or {}).get("n") for each in (now.metric("card", "defects") or {}).values()]
    return bool(ids) and all(told) and all(card.get(rubric) == name for rubric, name in ids.items())


def unusable(now: Snapshot) -> str:
    """Why scores of this judge are withheld: no card, or a card that misses a defect of PLAIN; else ""."""
    if not carded(now):
        return NO_CARD
    if blind := [name for name in unseen(now) if name in PLAIN]:
        return f"by its judge card this judge does not find {', '.join(blind)}"
    return ""


def unseen(now: Snapshot) -> list[str]:
    """Defects of the judge card that fewer than half of the texts lose points for, those in held-out words aside."""
    found = []
    for name, each in (now.metric("card", "defects") or {}).items():
        lower, higher = ((each.get(key) or {}).get("mean") for key in ("lower", "higher"))
        # Less those that score above their sound text: a judge that throws dice finds as many as it misses.
        if lower is not None and not each.get("held_out") and lower - (higher or 0) < 0.5:
            found.append(name)
    return found


def band(now: Snapshot) -> float | None:
    """How far two seeds lie apart, in the unit of the score; None where `make seeds` measured other inputs."""
    found: float | None = now.metric("seeds", "score", "band")
    if found is None or not dvc_lock.LOCK.is_file():
        return None
    return found if now.metric("seeds", "of") == seed_noise.of(dvc_lock.LOCK.read_text("utf-8")) else None


def numbers(found: dict[str, Any] | None) -> dict[str, Any]:
    """A paired difference with every key that its sentence reads, as older metrics lack some."""
    empty = dict.fromkeys(("mean", "low", "high", "p", "detectable", "margin", "p_equivalent", "reason"))
    return {**empty, "n": 0, "clusters": 0, **(found or {})}


def verdict(now: Snapshot, key: str = "difference") -> str:
    """The result in one sentence, with its interval and its n; without a judge card, what needs no judge."""
    gap, (mine, other) = numbers(now.metric("compare", key)), GAPS[key]
    if gap["mean"] is None:
        if key != "difference":
            return f"Not decided between {mine} and {other}: {gap['reason'] or 'no text has a score of both'}"
        return "Nothing is compared yet: `dvc repro` makes reports/metrics/compare.json"
    if why := unusable(now):
        return f"{passes(now, key)}; {why}"
    if why := hidden(now, key):
        return f"Not decided between {mine} and {other}: {why}"
    # The band is that of two trainings of the tuned model: the base has none, and these two share theirs.
    wide = None if other == "base" or mine == "aligned" else band(now)
    return _sized(gap, mine, other, now.metric("compare", "score_kind") or "score", wide)


def _sized(gap: dict[str, Any], mine: str, other: str, score: str, wide: float | None) -> str:
    """What the interval of a difference allows to say of it; `wide` is the noise of other training seeds."""
    kind, state = f"{score}, 1 to 5; n = {gap['n']} in {gap['clusters']} items", paired.state(gap, wide)
    if state == "none":
        return f"{mine} − {other} is {signed(gap['mean'])} ({kind}: {gap['reason'] or 'too few for an interval'})"
    size = f"{signed(gap['mean'])} [{signed(gap['low'])}, {signed(gap['high'])}] ({kind}, 95% interval)"
    if state == "noise":
        return f"{mine} and {other} differ by no more than other training seeds do, ±{figure(wide)}: {size}"
    if state == "equivalent":
        return f"{mine} and {other} are as good as each other, within ±{gap['margin']}: {size}"
    if state == "open":
        # An open result is no proof that there is no difference: say what would have been seen.
        seen = f"; a true one of {figure(gap['detectable'])} would show 4 times in 5" if gap["detectable"] else ""
        by = "" if gap["low"] <= 0 <= gap["high"] else f" by sign flips of items ({chance(gap['p'])})"
        return f"No difference shown between {mine} and {other}{by}: {size}{seen}"
    ends = sorted((abs(gap["low"]), abs(gap["high"])))
    small = gap["p_equivalent"] is not None and gap["p_equivalent"] < paired.SURE
    words = f"{abs(gap['mean']):.2f} [{ends[0]:.2f}, {ends[1]:.2f}] ({kind}, 95% interval)"
    near = f", yet both are as good as each other within ±{gap['margin']}" if small else ""
    return f"{mine} is {'better' if state == 'higher' else 'worse'} than {other} by {words}{near}"


def hidden(now: Snapshot, key: str = "difference") -> str:
    """What failed judgements may hide of the difference: "" where its sign does not hang on them."""
    if now.metric("compare", "missing", "differs"):
        return "one system lost more verdicts than the other, so that their means are of other texts"
    mean = now.metric("compare", key, "mean")
    low, high = now.metric("compare", key, "bounds") or (mean, mean)
    if mean and (low if mean > 0 else -high) <= 0:
        return f"with the failed judgements at worst and at best the difference is {signed(low)} to {signed(high)}"
    return ""


def passes(now: Snapshot, key: str = "difference") -> str:
    """The strict pass rates and McNemar's test of them: what a program checked, whoever judges."""
    test = now.metric("compare", "passes", "strict") or {}
    shares = [_share(now, system) for system in GAPS[key]]
    if None in shares or not test.get("n"):
        return "No score is shown"
    if key != "difference":  # compare tests the pass rates of tuned and base alone
        mine, other = GAPS[key]
        return f"{mine} passes strict in {shares[0]} of {test['n']} texts, {other} in {shares[1]}"
    ours, theirs = test.get("only_left") or 0, test.get("only_right") or 0
    alone = f"{ours} pass in tuned only and {theirs} in base only"
    rates = f"{shares[0]} against {shares[1]} (n = {test['n']}; {alone}; McNemar {chance(test.get('p'))})"
    # McNemar takes texts for independent; those of one item are not, so that the items decide.
    state = paired.state(numbers(test.get("paired")))
    if state not in ("higher", "lower"):
        return f"No difference shown in how often tuned and base pass strict: {rates}"
    return f"tuned passes strict {'more' if state == 'higher' else 'less'} often than base: {rates}"


def _share(now: Snapshot, system: str) -> str | None:
    column = now.metric("compare", "overall", system) or {}
    low, high = (column.get("intervals") or {}).get("strict") or (None, None)
    return told({"mean": column["strict"], "low": low, "high": high}) if column.get("strict") is not None else None


def preferred(now: Snapshot, key: str = "difference") -> str:
    """The win rate of one over the other; "" where it is withheld, where nothing was compared, or without a card."""
    mine, other = GAPS[key]
    found = now.metric("compare", "preferences", "pairs", f"{mine}:{other}") or {}
    win = found.get("win") or {}
    if win.get("mean") is None or found.get("withheld") or unusable(now):
        return ""
    rate = f"win rate {told(win)} (ties as halves; n = {win['n']} in {win['clusters']} items, 95% interval)"
    if (found.get("controlled") or {}).get("state") == "not identifiable":
        rate += "; it cannot be told from a preference for length, which is not identifiable"
    low, high = win.get("low"), win.get("high")
    if low is None or high is None:
        return f"{mine} beside {other}: {rate}"
    if low <= 0.5 <= high:
        return f"No preference shown between {mine} and {other}: {rate}"
    first, second = (mine, other) if low > 0.5 else (other, mine)
    return f"{first} is preferred to {second}: {mine}'s {rate}"


def lines(now: Snapshot) -> list[str]:
    """Tuned against base, and where preferences were learnt what these brought on top: score, then win rate."""
    keys = [key for key, (mine, _) in GAPS.items() if mine in now.systems or key == "difference"]
    return [line for key in keys for line in (verdict(now, key), preferred(now, key)) if line]
