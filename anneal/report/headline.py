"""The headline of the report: the result in one sentence, withheld where judge or noise do not support it."""

from __future__ import annotations

from typing import Any

from anneal.history import dvc_lock, seed_noise
from anneal.history.revision import Snapshot
from anneal.records import Metrics
from anneal.report.formatting import estimate_text, figure, p_text, signed
from anneal.stats import paired

# Defects that any judge must detect: an empty text, a truncated one, a loop. Errors of fact are harder and not listed.
PLAIN = ("null", "truncated", "looped")
# A defect counts as detected from this share of texts on that lose points, less those that gain points.
DETECTED = 0.5
NO_CARD = "no judge card for this judge: `make judge-card`"
# The two systems of a headline, by the key of compare.json that holds their difference.
GAPS = {"difference": ("tuned", "base"), "aligned_difference": ("aligned", "tuned")}
# Keys of a paired difference that a sentence reads.
DIFFERENCE_KEYS = ("mean", "low", "high", "p", "detectable", "margin", "p_equivalent", "reason")


def judges(now: Snapshot) -> dict[str, str]:
    """rubric -> judge_id of the compared scores."""
    return now.metric("compare", "judge", "judge_ids") or now.metric("compare", "judge_ids") or {}


def has_card(now: Snapshot) -> bool:
    """Whether the judge card belongs to this judge; it must cover every rubric that gave a score."""
    ids = judges(now)
    card_ids = now.metric("card", "judge_ids") or {}
    defects = now.metric("card", "defects") or {}
    measured = all((defect.get("lower") or {}).get("n") for defect in defects.values())
    return bool(ids) and measured and all(card_ids.get(rubric) == judge_id for rubric, judge_id in ids.items())


def unusable(now: Snapshot) -> str:
    """Why scores of this judge are withheld: no card, or a card that misses a defect of PLAIN; else ""."""
    if not has_card(now):
        return NO_CARD
    missed = [name for name in undetected(now) if name in PLAIN]
    if missed:
        return f"the judge card shows that this judge does not detect {', '.join(missed)}"
    return ""


def undetected(now: Snapshot) -> list[str]:
    """Defects of the judge card that cost fewer than half of the texts points; held-out phrases do not count."""
    names = []
    for name, defect in (now.metric("card", "defects") or {}).items():
        lower = (defect.get("lower") or {}).get("mean")
        higher = (defect.get("higher") or {}).get("mean") or 0
        # Texts that gain points are subtracted: a judge that scores at random lowers as many texts as it raises.
        if lower is not None and not defect.get("held_out") and lower - higher < DETECTED:
            names.append(name)
    return names


def seed_band(now: Snapshot) -> float | None:
    """The band of training-seed noise, in points of the score; None where `make seeds` measured other inputs."""
    band: float | None = now.metric("seeds", "score", "band")
    if band is None or not dvc_lock.LOCK.is_file():
        return None
    return band if now.metric("seeds", "of") == seed_noise.inputs_hash(dvc_lock.LOCK.read_text("utf-8")) else None


def with_all_keys(difference: Metrics | None) -> Metrics:
    """A paired difference with every key that its sentence reads; older metrics lack some."""
    return {**dict.fromkeys(DIFFERENCE_KEYS), "n": 0, "clusters": 0, **(difference or {})}


def score_line(now: Snapshot, key: str = "difference") -> str:
    """The difference of scores in one sentence, with interval and n; without a usable judge, the pass rates."""
    gap = with_all_keys(now.metric("compare", key))
    system, other = GAPS[key]
    if gap["mean"] is None:
        if key != "difference":
            return f"Undecided between {system} and {other}: {gap['reason'] or 'no text has a score from both systems'}"
        return "No comparison yet: `dvc repro` writes reports/metrics/compare.json"
    if why := unusable(now):
        return f"{pass_rate_line(now, key)}; {why}"
    if why := missing_scores_caveat(now, key):
        return f"Undecided between {system} and {other}: {why}"
    # The band is that of two trainings of the tuned model: the base has none, and aligned and tuned share theirs.
    noise = None if other == "base" or system == "aligned" else seed_band(now)
    return _difference_sentence(gap, system, other, now.metric("compare", "score_kind") or "score", noise)


def _difference_sentence(gap: Metrics, system: str, other: str, score: str, noise: float | None) -> str:
    """The conclusion that the interval of a difference allows; `noise` is the band of training seeds, in points."""
    scale = f"{score}, 1 to 5; n = {gap['n']} in {gap['clusters']} items"
    state = paired.state(gap, noise)
    if state == "none":
        return f"{system} − {other} is {signed(gap['mean'])} ({scale}: {gap['reason'] or 'too few for an interval'})"
    size = f"{signed(gap['mean'])} [{signed(gap['low'])}, {signed(gap['high'])}] ({scale}, 95% interval)"
    if state == "noise":
        return f"{system} and {other} differ by no more than training-seed noise, ±{figure(noise)}: {size}"
    if state == "equivalent":
        return f"{system} and {other} are equivalent within ±{gap['margin']}: {size}"
    if state == "open":
        # An open result does not prove that there is no difference, so the sentence gives the detectable one.
        power = f"; minimum detectable difference {figure(gap['detectable'])} at 80% power" if gap["detectable"] else ""
        test = "" if gap["low"] <= 0 <= gap["high"] else f" by a sign-flip test over items ({p_text(gap['p'])})"
        return f"No difference shown between {system} and {other}{test}: {size}{power}"
    ends = sorted((abs(gap["low"]), abs(gap["high"])))
    size = f"{abs(gap['mean']):.2f} [{ends[0]:.2f}, {ends[1]:.2f}] ({scale}, 95% interval)"
    small = gap["p_equivalent"] is not None and gap["p_equivalent"] < paired.SURE
    margin = f", yet equivalent within ±{gap['margin']}" if small else ""
    return f"{system} is {'better' if state == 'higher' else 'worse'} than {other} by {size}{margin}"


def missing_scores_caveat(now: Snapshot, key: str = "difference") -> str:
    """How failed judgements leave the difference undecided; "" where its sign does not depend on them."""
    if now.metric("compare", "missing", "differs"):
        return "judgements failed at different rates, so the two means cover different texts"
    mean = now.metric("compare", key, "mean")
    low, high = now.metric("compare", key, "bounds") or (mean, mean)
    if mean and (low if mean > 0 else -high) <= 0:
        return f"with failed judgements at worst and at best the difference is {signed(low)} to {signed(high)}"
    return ""


def pass_rate_line(now: Snapshot, key: str = "difference") -> str:
    """The strict pass rates with McNemar's test; they come from programmed checks and need no judge."""
    test = now.metric("compare", "passes", "strict") or {}
    system, other = GAPS[key]
    rates = [_strict_rate(now, name) for name in (system, other)]
    if None in rates or not test.get("n"):
        return "No score is shown"
    if key != "difference":  # compare tests the pass rates of tuned and base alone
        return f"{system} passes strict in {rates[0]} of {test['n']} texts, {other} in {rates[1]}"
    discordant = f"{test.get('only_left') or 0} pass in tuned only and {test.get('only_right') or 0} in base only"
    size = f"{rates[0]} against {rates[1]} (n = {test['n']}; {discordant}; McNemar {p_text(test.get('p'))})"
    # McNemar treats texts as independent; those of one item are not, so that the test over items decides.
    state = paired.state(with_all_keys(test.get("paired")))
    if state not in ("higher", "lower"):
        return f"No difference shown between the strict pass rates of tuned and base: {size}"
    return f"tuned passes strict {'more' if state == 'higher' else 'less'} often than base: {size}"


def _strict_rate(now: Snapshot, system: str) -> str | None:
    column = now.metric("compare", "overall", system) or {}
    if column.get("strict") is None:
        return None
    low, high = (column.get("intervals") or {}).get("strict") or (None, None)
    return estimate_text({"mean": column["strict"], "low": low, "high": high})


def preference_line(now: Snapshot, key: str = "difference") -> str:
    """The win rate of one system over the other; "" where it is withheld, not measured, or the judge is unusable."""
    system, other = GAPS[key]
    pair: dict[str, Any] = now.metric("compare", "preferences", "pairs", f"{system}:{other}") or {}
    win = pair.get("win") or {}
    if win.get("mean") is None or pair.get("withheld") or unusable(now):
        return ""
    counts = f"ties count half; n = {win['n']} in {win['clusters']} items, 95% interval"
    rate = f"win rate {estimate_text(win)} ({counts})"
    if (pair.get("controlled") or {}).get("state") == "not identifiable":
        rate += "; a preference for length cannot be ruled out, its effect is not identifiable"
    low, high = win.get("low"), win.get("high")
    if low is None or high is None:
        return f"{system} against {other}: {rate}"
    if low <= 0.5 <= high:
        return f"No preference shown between {system} and {other}: {rate}"
    first, second = (system, other) if low > 0.5 else (other, system)
    return f"{first} is preferred to {second}: {system}'s {rate}"


def lines(now: Snapshot) -> list[str]:
    """Score and win rate of tuned against base, then of aligned against tuned where there is an aligned model."""
    keys = [key for key, (system, _) in GAPS.items() if system in now.systems or key == "difference"]
    return [line for key in keys for line in (score_line(now, key), preference_line(now, key)) if line]
