"""Warnings shown above the report, most serious first."""

from __future__ import annotations

from anneal.history import dvc_lock, revision
from anneal.history.revision import Snapshot
from anneal.report import artifacts, headline, human_votes
from anneal.report.formatting import figure
from anneal.systems import SYSTEMS

# Below this share of answers that end with a stop token, the loss masks or the stop tokens are likely wrong.
STOPS = 0.98
# From this mean of the golden texts on, the judge has no room left above them on its scale of 1 to 5.
CEILING = 4.9
# Share of control texts that may pass a check, and of judge controls that may score like golden texts.
SLIPS = 0.05

RULES_ONLY = """rule score: only programmed rules are checked; persuasion, taste and truth beyond the fact sheet are \
not assessed. Set judge.model to a language model to measure quality"""
# The property that a judge lacks where a control text scores at least as high as its golden text.
MISSED_BY_CONTROL = {
    "null": "the judge accepts a text without content",
    "other": "the judge does not detect facts of another item",
    "truncated": "the judge does not detect truncation",
}

Alert = tuple[str, str]  # bad or note, and the line


def missing_scores(now: Snapshot) -> list[Alert]:
    """Texts without a score: their number, the bounds of the mean, and whether failures differ between systems."""
    raised: list[Alert] = []
    for system in SYSTEMS:
        column = now.metric("compare", "overall", system) or {}
        missing = column.get("n", 0) - column.get("n_scored", 0)
        if missing:
            outcomes = now.metric(f"judge/{system}", "outcomes") or {}
            causes = ", ".join(f"{n} {name}" for name, n in outcomes.items() if name != "ok")
            low, high = column.get("bounds") or (None, None)
            line = f"{system}: {missing} of {column['n']} texts have no score ({causes}); depending on their scores, "
            raised.append(("bad", f"{line}the mean lies between {figure(low)} and {figure(high)}"))
    raised += [("bad", line) for line in over_budget(now)]
    if uneven := now.metric("compare", "missing", "sentence"):
        raised.append(("bad", uneven))
    elif early := now.metric("compare", "missing", "first", "sentence"):
        raised.append(("bad", f"first responses of the judge, before retries: {early}"))
    return raised


def over_budget(now: Snapshot) -> list[str]:
    """Systems whose share of failed judgements exceeds judge.max_failed."""
    allowed = (now.params.get("judge") or {}).get("max_failed")
    lines = []
    for system in SYSTEMS:
        outcomes = now.metric(f"judge/{system}", "outcomes") or {}
        n = sum(outcomes.values())
        failed = n - outcomes.get("ok", 0)
        share = failed / n if n else 0.0
        if allowed is not None and failed > allowed * n:
            line = f"{system}: {figure(share, True)} of judgements failed"
            lines.append(f"{line}; judge.max_failed allows {figure(allowed, True)}")
    return lines


def unsound_run(now: Snapshot) -> list[Alert]:
    """Faults of the run: answers that do not stop, leakage, cut texts, lenient checks, stale results, connections."""
    raised: list[Alert] = []
    stops = now.metric("compare", "overall", now.shipped, "stop_rate")
    if stops is not None and stops < STOPS:
        line = f"{figure(1 - stops, True)} of {now.shipped} answers end without a stop token"
        line += f" (usually at most {1 - STOPS:.0%})"
        raised.append(("bad", f"{line}: check the loss masks under Tokens, and answer.decode.max_new_tokens"))
    raised += [("bad", f"preference learning: {line}") for line in now.metric("align", "warnings") or []]
    raised += [("bad", line) for line in leaks(now)]
    if over := now.metric("format", "over_length", "rows"):
        raised.append(("bad", f"{over} records exceed format.max_length and are in no part of the split"))
    for name, control in (now.metric("compare", "controls") or {}).items():
        passed = control.get("mean") or 0
        if passed > SLIPS:
            # Checks of form alone, as of verse, pass every golden text of a type: by design, so only a note.
            form_only = name == "other" and passed > 1 - SLIPS
            cause = "the checks test form, not whether a text fits its item" if form_only else "the checks are lenient"
            line = f"{figure(passed, True)} of the control {name!r} pass strict: {cause}"
            raised.append(("note" if form_only else "bad", line))
    missed = now.metric("accept", "none", "n")
    if missed and (now.params.get("accept") or {}).get("checks"):
        line = f"{missed} of {now.metric('accept', 'n')} answers pass accept.checks at no escalation step"
        raised.append(("bad", f"{line}: their first attempt is delivered"))
    raised += [("bad", line) for line in stale(now)]
    connections, _ = artifacts.outbound(now.params)
    if connections:
        raised.append(("bad", f"{connections} outbound connections although privacy.local_only is true"))
    return raised


def stale(now: Snapshot) -> list[str]:
    """Inputs edited since the run: the metrics do not belong to the params and files of the working tree."""
    if not dvc_lock.LOCK.is_file():
        return []
    entries = dvc_lock.parse(dvc_lock.LOCK.read_text("utf-8")).values()
    changed = {entry.name: dvc_lock.stale(entry, now.params) for entry in entries}
    first = next((path for paths in changed.values() for path in paths), "")
    stages = ", ".join(name for name, paths in changed.items() if paths)
    return [f"stale: {first} changed since the run (stages: {stages}); run `dvc repro` first"] if first else []


def judge(now: Snapshot) -> list[Alert]:
    """Measured faults of the judge itself: no card, its own family, missed defects, failed controls, no human votes."""
    if now.metric("compare", "difference", "mean") is None:
        return []
    why = headline.unusable(now)
    raised: list[Alert] = [("bad", f"no score is shown: {why}")] if why else []
    if headline.has_card(now):
        raised += [("bad", f"self-judging: {line}") for line in now.metric("card", "family") or []]
        if missed := headline.undetected(now):
            line = f"judge card: {', '.join(missed)} are detected in fewer than half of the texts"
            raised.append(("bad", f"{line}; a good score does not rule them out"))
    for name, part in (now.metric("compare", "judge_controls") or {}).items():
        share = part.get("at_golden")
        if share is None:
            raised.append(("bad", f"the judge's control {name!r} has no score: this property of the judge is untested"))
            continue
        if name in MISSED_BY_CONTROL and share > SLIPS:
            line = f"{figure(share, True)} of the judge's control {name!r} score at least as high as their golden text"
            raised.append(("bad", f"{line}: {MISSED_BY_CONTROL[name]}"))
        if name == "again" and share < 1 - SLIPS:
            line = f"{figure(1 - share, True)} of golden texts score lower when judged again"
            raised.append(("note", f"{line}: the judge is not repeatable"))
    if why := human_votes.uncalibrated(now):
        raised.append(("bad", f"UNCALIBRATED: {why}"))
    return raised


def pairwise(now: Snapshot) -> list[Alert]:
    """Failed verdicts on pairs with the bounds of the win rate, and withheld win rates."""
    raised: list[Alert] = []
    if line := now.metric("compare", "preferences", "missing", "sentence"):
        raised.append(("bad", line))
    for pair, part in (now.metric("compare", "preferences", "pairs") or {}).items():
        failed = part.get("failed") or {}
        if failed.get("n"):
            low, high = failed.get("bounds") or (None, None)
            line = f"{pair}: {failed['n']} verdicts failed; depending on the {failed.get('pairs_lost')} lost pairs, "
            raised.append(("bad", f"{line}the win rate lies between {figure(low, True)} and {figure(high, True)}"))
        if part.get("withheld"):
            raised.append(("note", f"{pair}: win rate {part['withheld']}"))
    return raised


def notes(now: Snapshot, old: Snapshot) -> list[Alert]:
    """Conditions that are no fault but change how a number reads."""
    raised: list[Alert] = []
    stops = now.metric("compare", "overall", "base", "stop_rate")
    if stops is not None and stops < STOPS:
        line = f"{figure(1 - stops, True)} of base answers are truncated at answer.decode.max_new_tokens"
        raised.append(("note", f"{line}: base is judged on unfinished texts"))
    if (now.metric("compare", "overall", "golden", "score") or 0) >= CEILING:
        line = "golden scores at the top of the scale: the judge cannot separate good texts from better ones"
        raised.append(("note", line))
    if now.metric("compare", "score_kind") == "rule score":
        raised.append(("note", RULES_ONLY))
    blind_to = now.metric("card", "blind_to")
    if blind_to and headline.has_card(now):
        raised.append(("note", f"defects that the judge does not detect: {'; '.join(blind_to)}"))
    if revision.rejudged(old, now):
        raised.append(("note", f"{old.name} was judged by another judge or rubric: its scores are not compared"))
    recipe = old.params.get("recipe") if old.params else None
    if old.params and recipe != now.params.get("recipe"):
        raised.append(("note", f"{old.name} has the recipe {recipe}: its metrics describe other texts"))
    return raised


def alerts(now: Snapshot, old: Snapshot) -> list[Alert]:
    """Every line, bad ones before notes, each group in the order of its cause."""
    lines = [*missing_scores(now), *unsound_run(now), *judge(now), *pairwise(now), *notes(now, old)]
    return sorted(lines, key=lambda alert: alert[0])


def leaks(now: Snapshot) -> list[str]:
    """Leakage that the certificate of the split reports, as lines for the banner."""
    kinds = {
        "shared_items": "items are in more than one part of the split",
        "crossing_pairs": "near-duplicate pairs cross the split",
    }
    counts = {words: now.metric("split", "certificate", key) for key, words in kinds.items()}
    return [f"leakage: {count} {words}; scores are inflated" for words, count in counts.items() if count]
