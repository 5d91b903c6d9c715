"""Alerts: the warnings in the banner of the report, the bad ones first."""

from __future__ import annotations

from anneal.history import dvc_lock, revision
from anneal.history.revision import Snapshot
from anneal.report import artifacts, headline, human_votes
from anneal.report.formatting import figure
from anneal.systems import SYSTEMS

STOPS = 0.98  # below this share of answers that end by themselves, something is wrong with masks or stop tokens
CEILING = 4.9  # a judge whose golden texts score this has no room left to tell good from better
SLIPS = 0.05  # share of controls that may pass

RULES_ONLY = """rule score: a program checked what a rule can check; it does not see persuasion, taste, or truth \
beyond the sheet. Set judge.model to a language model to measure quality"""
# What a judge does not see that lets a control score as the golden text of its record does.
BLIND = {
    "null": "it takes a text that says nothing for a good one",
    "other": "it does not see whose facts a text holds",
    "truncated": "it does not see that a text is cut off",
}

Alert = tuple[str, str]  # bad or note, and the line


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
    found += [("bad", line) for line in over_budget(now)]
    if uneven := now.metric("compare", "missing", "sentence"):
        found.append(("bad", uneven))
    elif early := now.metric("compare", "missing", "first", "sentence"):
        found.append(("bad", f"first replies of the judge, before it was asked again: {early}"))
    return found


def over_budget(now: Snapshot) -> list[str]:
    """Systems whose failed judgements are more than judge.max_failed allows."""
    allowed = (now.params.get("judge") or {}).get("max_failed")
    found = []
    for name in SYSTEMS:
        outcomes = now.metric(f"judge/{name}", "outcomes") or {}
        n = sum(outcomes.values())
        failed = n - outcomes.get("ok", 0)
        share = failed / n if n else 0.0
        if allowed is not None and failed > allowed * n:
            line = f"{name}: {figure(share, True)} of judgements failed"
            found.append(f"{line}; judge.max_failed allows {figure(allowed, True)}")
    return found


def unsound(now: Snapshot) -> list[Alert]:
    """Answers that do not stop, texts that leak or are cut, checks that see too little."""
    found: list[Alert] = []
    stops = now.metric("compare", "overall", now.shipped, "stop_rate")
    if stops is not None and stops < STOPS:
        line = f"{figure(1 - stops, True)} of {now.shipped} answers do not stop by themselves"
        line += f" (at most {1 - STOPS:.0%} is usual)"
        found.append(("bad", f"{line}: see the masks under Tokens, and answer.decode.max_new_tokens"))
    found += [("bad", f"preference learning: {line}") for line in now.metric("align", "warnings") or []]
    found += [("bad", line) for line in leaks(now)]
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
    found += [("bad", line) for line in stale(now)]
    made, _ = artifacts.outbound(now.params)
    if made:
        found.append(("bad", f"{made} connections left this machine although privacy.local_only is true"))
    return found


def stale(now: Snapshot) -> list[str]:
    """What was edited since the run: the numbers are not those of the params and the code beside them."""
    if not dvc_lock.LOCK.is_file():
        return []
    entries = dvc_lock.parse(dvc_lock.LOCK.read_text("utf-8")).values()
    found = {entry.name: dvc_lock.stale(entry, now.params) for entry in entries}
    first = next((what for each in found.values() for what in each), "")
    names = ", ".join(name for name, each in found.items() if each)
    return [f"edited since the run: {first}, read otherwise by {names}; `dvc repro` first"] if first else []


def judge(now: Snapshot) -> list[Alert]:
    """What is wrong with the judge itself, as far as it was measured."""
    if now.metric("compare", "difference", "mean") is None:
        return []
    why = headline.unusable(now)
    found: list[Alert] = [("bad", f"no score is shown: {why}")] if why else []
    if headline.carded(now):
        found += [("bad", f"self-judging: {line}") for line in now.metric("card", "family") or []]
        if missed := headline.unseen(now):
            line = f"the judge card: {', '.join(missed)} are mostly not found"
            found.append(("bad", f"{line}; a score of this judge does not say that a text is free of them"))
    for name, part in (now.metric("compare", "judge_controls") or {}).items():
        share = part.get("at_golden")
        if share is None:
            found.append(("bad", f"the judge's control {name!r} has no verdict: what it shows of the judge is unknown"))
            continue
        if name in BLIND and share > SLIPS:
            line = f"{figure(share, True)} of the judge's control {name!r} score at least as their golden text"
            found.append(("bad", f"{line}: {BLIND[name]}"))
        if name == "again" and share < 1 - SLIPS:
            line = f"{figure(1 - share, True)} of golden texts score lower when they are judged again"
            found.append(("note", f"{line}: the judge does not repeat itself"))
    if why := human_votes.uncalibrated(now):
        found.append(("bad", f"UNCALIBRATED: {why}"))
    return found


def pairwise(now: Snapshot) -> list[Alert]:
    """Verdicts on pairs that went missing, and headlines that are withheld."""
    found: list[Alert] = []
    if line := now.metric("compare", "preferences", "missing", "sentence"):
        found.append(("bad", line))
    for pair, part in (now.metric("compare", "preferences", "pairs") or {}).items():
        failed = part.get("failed") or {}
        if failed.get("n"):
            low, high = failed.get("bounds") or (None, None)
            line = f"{pair}: {failed['n']} verdicts failed; with the {failed.get('pairs_lost')} pairs that they cost"
            ends = f"{figure(low, True)} and {figure(high, True)}"
            found.append(("bad", f"{line} the win rate lies between {ends}"))
        if part.get("withheld"):
            found.append(("note", f"{pair}: win rate {part['withheld']}"))
    return found


def notes(now: Snapshot, old: Snapshot) -> list[Alert]:
    """What is no fault, but changes how a number is to be read."""
    found: list[Alert] = []
    stops = now.metric("compare", "overall", "base", "stop_rate")
    if stops is not None and stops < STOPS:
        line = f"{figure(1 - stops, True)} of base answers are cut off at answer.decode.max_new_tokens"
        found.append(("note", f"{line}: base is judged on unfinished texts"))
    if (now.metric("compare", "overall", "golden", "score") or 0) >= CEILING:
        found.append(
            ("note", "golden scores at the top of the scale: the judge cannot tell good texts from better ones")
        )
    if now.metric("compare", "score_kind") == "rule score":
        found.append(("note", RULES_ONLY))
    if (blind := now.metric("card", "blind_to")) and headline.carded(now):
        found.append(("note", f"what the judge does not see: {'; '.join(blind)}"))
    if revision.rejudged(old, now):
        found.append(("note", f"{old.name} was judged by another judge or rubric: its scores are not compared"))
    if old.params and old.params.get("recipe") != now.params.get("recipe"):
        found.append(
            ("note", f"{old.name} holds the recipe {old.params.get('recipe')}: its numbers are of other texts")
        )
    return found


def alerts(now: Snapshot, old: Snapshot) -> list[Alert]:
    """Every line, bad ones before notes, each group in the order of its cause."""
    found = [*unscored(now), *unsound(now), *judge(now), *pairwise(now), *notes(now, old)]
    return sorted(found, key=lambda alert: alert[0])


def leaks(now: Snapshot) -> list[str]:
    """What the leakage certificate of the split does not rule out, as lines for the banner."""
    names = {"shared_items": "items are on two sides of the split", "crossing_pairs": "near-duplicates cross the split"}
    counts = {words: now.metric("split", "certificate", key) for key, words in names.items()}
    return [f"leak: {count} {words}; the scores are too good" for words, count in counts.items() if count]
