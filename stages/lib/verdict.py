"""The result in one sentence, and what a reader must know before believing it."""

from __future__ import annotations

from . import evidence, process, revision
from .evidence import SYSTEMS
from .figures import figure, signed
from .revision import Snapshot

STOPS = 0.98  # below this share of answers that end by themselves, something is wrong with masks or stop tokens
CEILING = 4.9  # a judge whose golden texts score this has no room left to tell good from better
SLIPS = 0.05  # share of controls that may pass

RULES_ONLY = """rule score: a program checked what a rule can check; it does not see persuasion, taste, or truth \
beyond the sheet. Set judge.model to a language model to measure quality"""

Alert = tuple[str, str]  # bad or note, and the line


def verdict(now: Snapshot) -> str:
    """The result in one sentence, with its interval and its n."""
    gap = now.metric("compare", "difference") or {}
    mean, low, high = (gap.get(key) for key in ("mean", "low", "high"))
    if mean is None:
        return "Nothing is compared yet: `dvc repro` makes reports/metrics/compare.json"
    kind = f"{now.metric('compare', 'score_kind') or 'score'}, 1 to 5; n = {gap['n']} in {gap['clusters']} items"
    if low is None or high is None:
        return f"tuned − base is {signed(mean)} ({kind}: {gap.get('reason') or 'too few for an interval'})"
    if low <= 0 <= high:
        size = f"{signed(mean)} [{signed(low)}, {signed(high)}] ({kind}, 95% interval)"
        if gap.get("state") == "equivalent":
            return f"tuned and base are as good as each other, within ±{gap['margin']}: {size}"
        # An open result is no proof that there is no difference: say what would have been seen.
        seen = f"; a true one of {figure(gap['detectable'])} would show 4 times in 5" if gap.get("detectable") else ""
        return f"No difference shown between tuned and base: {size}{seen}"
    ends = sorted((abs(low), abs(high)))
    size = f"{abs(mean):.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"
    return f"tuned is {'better' if low > 0 else 'worse'} than base by {size} ({kind}, 95% interval)"


def unscored(now: Snapshot) -> list[Alert]:
    """Texts that the judge gave no score: counted, and what the mean could be with them."""
    found: list[Alert] = []
    for system in SYSTEMS:
        column = now.metric("compare", "overall", system) or {}
        if missing := column.get("n", 0) - column.get("n_scored", 0):
            outcomes = now.metric(f"judge/{system}", "outcomes") or {}
            why = ", ".join(f"{n} {name}" for name, n in outcomes.items() if name != "ok")
            low, high = column.get("bounds") or (None, None)
            line = (
                f"{system}: {missing} of {column['n']} texts have no score ({why}); whatever they are worth, the mean"
            )
            found.append(("bad", f"{line} lies between {figure(low)} and {figure(high)}"))
    if uneven := now.metric("compare", "missing", "sentence"):
        found.append(("bad", uneven))
    return found


def unsound(now: Snapshot) -> list[Alert]:
    """Answers that do not stop, texts that leak or are cut, checks that see too little."""
    found: list[Alert] = []
    stops = now.metric("compare", "overall", "tuned", "stop_rate")
    if stops is not None and stops < STOPS:
        line = (
            f"{figure(1 - stops, True)} of tuned answers do not stop by themselves (at most {1 - STOPS:.0%} is usual)"
        )
        found.append(("bad", f"{line}: see the masks under Tokens, and answer.decode.max_new_tokens"))
    found += [("bad", line) for line in process.leaks(now)]
    if over := now.metric("format", "over_length", "rows"):
        found.append(("bad", f"{over} records were longer than format.max_length and are in no split"))
    for name, control in (now.metric("compare", "controls") or {}).items():
        if (passed := control.get("mean") or 0) > SLIPS:
            # Checks of form alone, as of verse, pass every golden text of a type: no fault, but to be known.
            form = name == "other" and passed > 1 - SLIPS
            why = "it sees the form of a text, not whether it fits its item" if form else "it sees too little"
            line = f"{figure(passed, True)} of the control {name!r} pass strict: {why}"
            found.append(("note" if form else "bad", line))
    missed = now.metric("accept", "none", "n")
    if missed and (now.params.get("accept") or {}).get("checks"):
        line = f"{missed} of {now.metric('accept', 'n')} answers pass accept.checks on no rung"
        found.append(("bad", f"{line}: their first attempt stands"))
    made, _ = evidence.outbound(now.params)
    if made:
        found.append(("bad", f"{made} connections left this machine although privacy.local_only is true"))
    return found


def alerts(now: Snapshot, old: Snapshot) -> list[Alert]:
    """What a reader must know before the numbers, worst first."""
    found = [*unscored(now), *unsound(now)]
    if (now.metric("compare", "overall", "golden", "score") or 0) >= CEILING:
        found.append(
            ("note", "golden scores at the top of the scale: the judge cannot tell good texts from better ones")
        )
    if now.metric("compare", "score_kind") == "rule score":
        found.append(("note", RULES_ONLY))
    if revision.rejudged(old, now):
        found.append(("note", f"{old.name} was judged by another judge or rubric: its scores are not compared"))
    if old.params and old.params.get("recipe") != now.params.get("recipe"):
        found.append(
            ("note", f"{old.name} holds the recipe {old.params.get('recipe')}: its numbers are of other texts")
        )
    return found
