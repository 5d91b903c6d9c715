"""What preference learning brought and what it cost: the aligned model beside the others, for the report."""

from __future__ import annotations

from typing import Any

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import Safe, el, table
from anneal.report.formatting import change, estimate, figure

NONE = Safe("")
Found = dict[str, Any]
DEFECTS = {"banned": "banned words", "exaggerated": "listed exaggerations", "unsupported": "unsupported claims"}
PRICE = {
    "bits_per_byte": "bits per byte", "perplexity": "perplexity", "distinct_2": "distinct-2",
    "distinct_4": "distinct-4", "length": "length beside golden",
}  # fmt: skip
# What the state of a difference says in words, where more is better.
WORDS = {
    "higher": "higher in aligned", "lower": "lower in aligned", "open": "no difference shown",
    "equivalent": "as high in both",
}  # fmt: skip
ABOUT = """Differences are paired by text, or by the mean of a prompt's samples, and in points; ~ marks an interval \
that holds 0, and what it would have found 4 times in 5. They are many, and no p-value is corrected for that. Checks \
and rewards of exaggerated claims know the patterns of rules.exaggerated and nothing else."""
COST = """Bits per byte and perplexity are those of the golden texts: what the model has forgotten shows there. \
distinct: the share of different n-grams. length: that of all texts, over that of the golden ones."""


def words(found: Found | None, good: str) -> Safe:
    """A difference in words, marked where it goes the `good` way (higher or lower) or the other one."""
    state = (found or {}).get("state") or ""
    if state not in WORDS:
        return html.text((found or {}).get("reason") or "–")
    mark = None if state not in ("higher", "lower") else "mark good" if state == good else "mark bad"
    return el("span", WORDS[state], class_=mark)


def _row(now: Snapshot, name: str, texts: str, part: Found, good: str) -> list[Any]:
    systems, gap = part.get("systems") or {}, part.get("difference")
    return [name, texts, *(estimate(systems.get(s)) for s in now.systems), change(gap, True), words(gap, good)]


def passes(now: Snapshot, found: Found) -> Safe:
    """How many answers are right, by each share of the table."""
    head = ["share of answers that pass", *now.systems, "aligned − tuned", "in words"]
    rows = [
        [name.replace("_", " "), *_row(now, "", "", part, "higher")[2:]]
        for name, part in (found.get("passes") or {}).items()
    ]
    return table(head, rows) if rows else NONE


def defects(now: Snapshot, found: Found, drawn: Found) -> Safe:
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


def rewards(drawn: Found) -> Safe:
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


def price(now: Snapshot, found: Found) -> Safe:
    """What was paid: forgetting, variety, length."""
    told = found.get("price") or {}
    rows = [[s, *(figure(told[s].get(key)) for key in PRICE)] for s in now.systems if told.get(s)]
    made = table(["", *PRICE.values()], rows)
    gap = now.metric("evaluate", "likelihood", "aligned", "less_tuned")
    lost = el("p", "bits per byte, aligned − tuned:", " ", change(gap)) if gap else NONE
    return html.join(el("h3", "Its price"), made, lost, el("p", COST, class_="soft")) if rows else NONE


def section(now: Snapshot) -> Safe:
    """Empty without an aligned model."""
    found: Found = now.metric("compare", "alignment") or {}
    drawn: Found = found.get("rollouts") or {}
    if "aligned" not in now.systems or not found:
        return NONE
    return html.join(
        el("h3", "What it changed"), passes(now, found), defects(now, found, drawn), rewards(drawn), price(now, found)
    )
