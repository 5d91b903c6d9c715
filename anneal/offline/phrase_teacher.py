"""The offline teacher answers a prompt from a bank of phrases, with a real teacher's habits and faults.

It reads only the request: the bank's patterns find the sheet lines, the content type and the task in the messages, so
a fact that a prompt no longer states cannot appear in the answer. The code holds no word of a recipe; the bank does.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from anneal.errors import UserError
from anneal.llm.offline_server import Reply, Respond
from anneal.offline import rewrite

# Raise it when the answer to a request may change: it is part of the teacher's identity.
VERSION = f"1.{rewrite.VERSION}"

Tree = dict[str, Any]  # the bank, or a part of it
_SLOT = re.compile(r"\{([^{}]+)\}")


def load(folder: Path) -> Tree:
    """Merge the JSON files of a bank into one tree. Raises UserError for a leaf in two files or an absent branch."""
    bank: Tree = {}
    for path in sorted(folder.glob("*.json")):
        try:
            part = json.loads(path.read_text("utf-8"))
        except json.JSONDecodeError as err:
            raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
        for branch, leaves in part.items():
            if duplicates := sorted(set(bank.setdefault(branch, {})) & set(leaves)):
                raise UserError(f"{path}: {branch}.{duplicates[0]} is in another file of {folder} too; keep one")
            bank[branch] |= leaves
    if missing := {"fields", "reading", "groups", "tasks", "types"} - set(bank):
        raise UserError(f"{folder}: the phrase bank lacks {', '.join(sorted(missing))}")
    return bank


def _generator(*parts: Any) -> random.Random:
    """A random generator seeded by the content of `parts`."""
    # A string seed is hashed with sha512 and so the same in every process, which `hash` of a string is not.
    return random.Random(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())


@dataclass
class Sheet:
    """The facts and content type of one prompt, and the random generator of its answer."""

    bank: Tree
    facts: dict[str, Any]
    kind: str  # content type, a key of the bank's `types`
    rng: random.Random
    used: set[str] = field(default_factory=set)  # phrases without a slot: a text holds each at most once

    def value(self, key: str) -> str | None:
        """The words of a slot: `name`, `effects.1`, `pain:effects.0` (a table), `@call` (a group); None if unknown."""
        if key.startswith("@"):
            return self.fill_any(self.bank["groups"][key[1:]])
        table, _, inner = key.rpartition(":")
        if table:
            return cast(str | None, self.bank["tables"][table].get(self.value(inner)))
        name, _, index = key.partition(".")
        fact = self.facts.get(name)
        if isinstance(fact, list):
            # A slice and not an index: an item beyond the end of the list is an unknown value, not an error.
            words = fact[int(index) :][:1] if index else fact
            fact = str(self.bank["reading"]["separator"]).join(words)
        return fact or None

    def fill_any(self, options: list[str]) -> str | None:
        """A random option with its slots filled, among those whose slots the prompt states; None if there is none."""
        for option in self.rng.sample(options, len(options)):
            values = {key: self.value(key) for key in _SLOT.findall(option)}
            if None in values.values() or option in self.used:
                continue
            if option and not values:
                self.used.add(option)
            # Split and not replaced in turn: a value may itself hold braces. Odd pieces are slots.
            pieces = _SLOT.split(option)
            return "".join(str(values[piece]) if index % 2 else piece for index, piece in enumerate(pieces))
        return None

    def fill(self, options: list[str]) -> str:
        """As `fill_any`, but raises ValueError where no option can be filled."""
        if (text := self.fill_any(options)) is None:
            slots = sorted({key for option in options for key in _SLOT.findall(option)})
            raise ValueError(f"the offline teacher needs {', '.join(slots)}, and the prompt does not tell one of them")
        return text


def compose(sheet: Sheet) -> str:
    """A text without faults: one option per sentence of its type."""
    form = sheet.bank["types"][sheet.kind]
    return str(form["join"]).join(sheet.fill(options) for options in form["sentences"])


def _sentences(sheet: Sheet, text: str) -> list[str]:
    return [part for part in re.findall(sheet.bank["reading"]["sentence"], text) if part]


def _insert(sheet: Sheet, text: str, step: Tree) -> str:
    sentences, options = _sentences(sheet, text), step["options"]
    for option in sheet.rng.sample(options, min(step.get("count", 1), len(options))):
        # Never before the first sentence: a text must keep the opening of its type to be a hard negative.
        sentences.insert(sheet.rng.randint(1, len(sentences)), sheet.fill([option]))
    return "".join(sentences)


def _swap(sheet: Sheet, text: str, step: Tree) -> str:
    """Replace one value of a list fact by a word of the group that the sheet does not hold."""
    values = sheet.facts[step["fact"]]
    foreign = [word for word in sheet.bank["groups"][step["group"]] if word not in values]
    old = sheet.rng.choice(values)
    new = sheet.rng.choice(foreign)
    return rewrite.replace_outside_name(text, str(sheet.facts["name"]), {old: new})


def _close(sheet: Sheet, text: str, _step: Tree) -> str:
    """Add the last sentence of the type where the text lacks its closing."""
    form = sheet.bank["types"][sheet.kind]
    if re.search(form["closing"], text):
        return text
    return str(form["join"].join([text, sheet.fill(form["sentences"][-1])]))


def _change(sheet: Sheet, text: str, _step: Tree) -> str:
    """Apply the replacements that the prompt lists."""
    listing = str(sheet.facts.get("changes", ""))
    changes = dict(re.findall(sheet.bank["reading"]["change"], listing))
    if not changes:
        raise ValueError(f"the offline teacher found no change in {listing!r}; write one a line, as: old -> new")
    return rewrite.replace_outside_name(text, str(sheet.facts["name"]), changes)


def _rephrase(sheet: Sheet, text: str, step: Tree) -> str:
    def fill(template: str) -> str:
        # Several options are drawn and one is taken: the others must not count as used.
        return replace(sheet, used=set()).fill([template])

    return rewrite.rephrase(text, sheet.facts, step, fill, sheet.rng)


# Key `do` of a task or a fault of the bank -> the edit: (sheet, text, step) to the new text.
_STEPS: dict[str, Callable[[Sheet, str, Tree], str]] = {
    "write": lambda sheet, _text, _step: compose(sheet),
    "say": lambda sheet, _text, step: sheet.fill(step["options"]),
    "wrap": lambda sheet, text, step: sheet.rng.choice(step["options"]).replace("{text}", text),
    "drop_last": lambda sheet, text, _step: "".join(_sentences(sheet, text)[:-1]).rstrip(),
    "insert": _insert,
    "swap": _swap,
    "strip": lambda _sheet, text, step: re.sub("|".join(step["patterns"]), "", text).strip(),
    "close": _close,
    "change": _change,
    "rephrase": _rephrase,
    # The fault that uses it also sets the finish reason `length`, as a provider does at its token limit.
    "cut": lambda sheet, text, step: text[: int(len(text) * sheet.rng.uniform(*step["keep"]))],
}


def read(bank: Tree, prompt: str) -> dict[str, Any]:
    """The facts that a prompt states; list facts are split and lose their concentrations."""
    reading = bank["reading"]
    facts: dict[str, Any] = {}
    for name, pattern in bank["fields"].items():
        if match := re.search(pattern, prompt, re.M):
            facts[name] = match[1].strip()
    for name in set(reading["lists"]) & set(facts):
        facts[name] = [re.sub(reading["drop"], "", word) for word in facts[name].split(reading["separator"])]
    return facts


def _plant_fault(sheet: Sheet, text: str) -> Reply:
    """The text with at most one of the bank's faults, each at its own rate."""
    # One uniform draw for all faults: each takes an interval as long as its rate, so no text gets two.
    roll = sheet.rng.random()
    for fault in sheet.bank.get("faults", {}).values():
        if not re.search(fault["types"], sheet.kind):
            continue
        roll -= fault["rate"]
        if roll < 0:
            return Reply(_STEPS[fault["do"]](sheet, text, fault), fault.get("finish", "stop"))
    return Reply(text)


def _echo(sheet: Sheet, settings: dict[str, Any]) -> Reply | None:
    """A near-duplicate at the bank's `echo` rate: two types of one sheet in nearly the same words; else None."""
    echo = sheet.bank.get("echo")
    if not echo:
        return None
    # Replies share no memory: the pair is drawn from what its two requests have in common, the sheet and settings.
    shared = {key: value for key, value in sheet.facts.items() if key != "label"}
    rng = _generator(shared, settings)
    if rng.random() >= echo["rate"]:
        return None
    first, second = rng.sample(sorted(sheet.bank["types"]), 2)
    if sheet.kind not in (first, second):
        return None
    text = compose(Sheet(sheet.bank, sheet.facts, first, rng))
    return Reply(text if sheet.kind == first else str(echo["edit"]).replace("{text}", text))


def teacher(folder: Path) -> Respond:
    """A teacher that answers from the bank in `folder`. Its random draws are seeded by the request.

    The teacher raises ValueError (the server answers 400) for a prompt whose task, type or facts cannot be read.
    """
    bank = load(folder)
    labels = {form["label"]: kind for kind, form in bank["types"].items()}

    def respond(body: dict[str, Any]) -> Reply:
        # The system message counts too: a recipe may well put the sheet there.
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        facts = read(bank, prompt)
        task = next((entry for entry in bank["tasks"].values() if re.search(entry["when"], prompt, re.M)), None)
        if task is None or facts.get("label") not in labels:
            raise ValueError(f"the offline teacher finds no task or no known content type in {prompt[-200:]!r}")
        sheet = Sheet(bank, facts, labels[facts["label"]], _generator(body))
        if task["do"] != "write":
            return Reply(_STEPS[task["do"]](sheet, str(facts.get("text", "")), task))
        return _echo(sheet, {**body, "messages": []}) or _plant_fault(sheet, compose(sheet))

    return respond
