"""clean: rules first, then one teacher round for each prompt file, every version kept.

reads   data/generated.jsonl, data/raw/<recipe>/offline, prompts/<recipe>/clean
writes  data/cleaned.jsonl, reports/metrics/clean.json
params  clean, recipe, teacher, types
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from anneal import files, prompts
from anneal.llm import client
from anneal.offline import phrase_teacher
from anneal.params import Count, Section
from anneal.records import Row
from anneal.stage import run

Answers = list[client.Answer]
Ask = Callable[[list[tuple[Row, str]], int], Answers]  # records with what they lack, and the number of the attempt


class Words(Section):
    """The recipe's own words for the rules."""

    openers: list[str]  # how a model begins to talk about its text
    closers: list[str]  # and how it ends
    labels: list[str]  # field names that it puts before a text


class Round(Section):
    """One thing to put right: the prompt file of this name asks for it, and only where a check fails."""

    name: str
    types: list[str]  # patterns of content types, as in a shell
    reason: str  # told to the teacher, with what was found
    require: re.Pattern[str] | None  # must match somewhere
    forbid: re.Pattern[str] | None  # must match nowhere
    tail: re.Pattern[str] | None  # must match in the last sentence

    def lacks(self, text: str) -> str:
        """Why the text is not good enough; empty if it is."""
        found = [m[0].strip() for m in self.forbid.finditer(text)] if self.forbid else []
        last = "".join(re.findall(r"[^。！？!?\n]+[。！？!?]*", text.strip())[-1:])
        if found:
            return f"{self.reason}: {' '.join(found)}"
        passed = (not self.require or self.require.search(text)) and (not self.tail or self.tail.search(last))
        return "" if passed else self.reason


class Clean(Section):
    max_attempts: Count  # replies for one record in one round
    rules: list[Literal["fences", "meta", "labels", "whitespace"]]  # in this order
    words: Words
    rounds: list[Round]


def _any(words: list[str]) -> str:
    return "(?:" + "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True)) + ")" if words else "(?!)"


def fences(text: str, _words: Words) -> str:
    """Lines that open or close a block of code."""
    return re.sub(r"^[ \t]*```[^\n`]*(?:\n|\Z)", "", text, flags=re.M)


def meta(text: str, words: Words) -> str:
    """Talk about the text: opening lines that are one of the words or end in a colon, and a closing line."""
    # Whole lines only: a text may well begin with such a word itself, and have its own colon further on.
    opening = rf"\s*{_any(words.openers)}(?:[^\n:：]{{0,60}}[:：]|[ ,，!！.。~～]*)[ \t]*\n\s*"
    while (shorter := re.sub(rf"\A{opening}(?=\S)", "", text)) != text:
        text = shorter
    return re.sub(rf"(?<=\S)\s*\n[ \t]*{_any(words.closers)}[^\n]*\s*\Z", "", text)


def labels(text: str, words: Words) -> str:
    """A field name before a line, bold, bracketed or bare, with its colon."""
    name = _any(words.labels)
    return re.sub(rf"^[ \t#*]*(?:[【\[]{name}[】\]][ \t]*[:：]?|{name}[ \t*]*[:：])[ \t*]*\n?", "", text, flags=re.M)


def whitespace(text: str, _words: Words) -> str:
    """No blanks around lines, at most one empty line between them."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip() for line in text.strip().splitlines()))


RULES: dict[str, Callable[[str, Words], str]] = {
    "fences": fences,
    "meta": meta,
    "labels": labels,
    "whitespace": whitespace,
}


def tidy(text: str, clean: Clean) -> tuple[str, list[str]]:
    """The text after all rules, and the names of those that changed it. A rule that leaves nothing is not applied."""
    changed: list[str] = []
    for name in clean.rules:
        after = RULES[name](text, clean.words)
        if after != text and after.strip():
            text = after
            changed.append(name)
    return text, changed


def begin(record: Row, clean: Clean) -> Row:
    """The record with its versions so far: as generated and, if the rules found something, as they left it."""
    text, changed = tidy(record["text"], clean)
    versions = [{"by": "generate", "text": record["text"], "reason": ""}]
    if changed:
        versions[0]["reason"] = f"rules: {', '.join(changed)}"
        versions.append({"by": "rules", "text": text, "reason": ""})
    # Rules that saw to one side of a pair only would leave their marks to tell the sides apart.
    other = {"rejected": tidy(record["rejected"], clean)[0]} if "rejected" in record else {}
    return {**record, **other, "text": text, "versions": versions}


def play(records: list[Row], step: Round, clean: Clean, ask: Ask) -> dict[str, int]:
    """One round, in place: ask about the records that fail its check until they pass or the attempts run out."""
    mine = [r for r in records if any(fnmatchcase(r["type"], pattern) for pattern in step.types)]
    asked = failing = sum(bool(step.lacks(r["text"])) for r in mine)
    for attempt in range(clean.max_attempts):
        todo = [(record, why) for record in mine if (why := step.lacks(record["text"]))]
        if not todo:
            break
        for record, why in todo:
            record["versions"][-1]["reason"] = f"{step.name}: {why}"
        for (record, _), answer in zip(todo, ask(todo, attempt), strict=True):
            if answer.status != "failed":
                record["text"] = tidy(answer.text, clean)[0]
                record["versions"].append({"by": step.name, "text": record["text"], "reason": ""})
        failing = sum(bool(step.lacks(r["text"])) for r in mine)
    return {"asked": asked, "fixed": asked - failing, "failing": failing}


def close(record: Row, clean: Clean) -> bool:
    """Whether the record passes in the end; what it still lacks is the reason of its last version."""
    steps = [s for s in clean.rounds if any(fnmatchcase(record["type"], pattern) for pattern in s.types)]
    # All rounds again: a later one may have undone what an earlier one put right.
    record["versions"][-1]["reason"] = "; ".join(f"{s.name}: {why}" for s in steps if (why := s.lacks(record["text"])))
    return not record["versions"][-1]["reason"]


def asker(step: Round, recipe: str, teacher: client.Chat, types: dict[str, str], total: int, so_far: Answers) -> Ask:
    """Ask the teacher about records with a round's prompt; `so_far` collects the answers of all rounds."""
    bank = Path("data/raw") / recipe / "offline"
    prompt, respond = (
        prompts.Prompt(Path("prompts") / recipe / "clean" / f"{step.name}.md"),
        phrase_teacher.teacher(bank),
    )

    def ask(todo: list[tuple[Row, str]], attempt: int) -> Answers:
        calls = []
        for r, why in todo:
            slots = {**prompts.slots(r["facts"]), "label": types[r["type"]], "text": r["text"], "reason": why}
            calls.append(client.Call(f"{r['id']}/{step.name}", prompt.messages(**slots), attempt))
        answers = client.ask(calls, teacher, "teacher", respond, material=bank, earlier=so_far, total=total)
        so_far.extend(answers)
        return answers

    return ask


def main(clean: Clean, recipe: str, teacher: client.Chat, types: dict[str, str]) -> None:
    records = [begin(r, clean) for r in files.read("data/generated.jsonl", "id", "type", "facts", "text")]
    ruled = Counter(rule for r in records for rule in tidy(r["versions"][0]["text"], clean)[1])
    answers: Answers = []
    asks = {step.name: asker(step, recipe, teacher, types, len(records), answers) for step in clean.rounds}
    rounds = {step.name: play(records, step, clean, asks[step.name]) for step in clean.rounds}
    passed = sum(close(record, clean) for record in records)
    metrics = {"n": len(records), "passed": passed, "failing": len(records) - passed, "rules": ruled, "rounds": rounds}
    files.write("data/cleaned.jsonl", records)
    files.write_json("reports/metrics/clean.json", metrics | client.bill(answers))


if __name__ == "__main__":
    run(main)
