"""The offline teacher: answers the prompt it is sent from a bank of phrases, with a real teacher's habits and faults.

It reads only the request: sheet lines, content type and task are found in the messages by the bank's own patterns, so
that a prompt that stops telling a fact stops getting it back. Every word of a recipe lives in the bank.
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

# Raise it when the same request may be answered otherwise; it is part of the teacher's identity.
VERSION = f"1.{rewrite.VERSION}"

Tree = dict[str, Any]  # the bank, or a part of it
_SLOT = re.compile(r"\{([^{}]+)\}")


def load(folder: Path) -> Tree:
    """All files of a bank as one tree of objects; two files may share a branch, not a leaf."""
    bank: Tree = {}
    for path in sorted(folder.glob("*.json")):
        try:
            part = json.loads(path.read_text("utf-8"))
        except json.JSONDecodeError as err:
            raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
        for branch, leaves in part.items():
            if twice := sorted(set(bank.setdefault(branch, {})) & set(leaves)):
                raise UserError(f"{path}: {branch}.{twice[0]} is in another file of {folder} too; keep one")
            bank[branch] |= leaves
    if missing := {"fields", "reading", "groups", "tasks", "types"} - set(bank):
        raise UserError(f"{folder}: the phrase bank lacks {', '.join(sorted(missing))}")
    return bank


def _seed(*parts: Any) -> random.Random:
    """Random numbers keyed by content."""
    # A string seed is hashed with sha512 and so the same in every process, which `hash` of a string is not.
    return random.Random(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())


@dataclass
class Sheet:
    """What one prompt says, and the dice for its answer."""

    bank: Tree
    facts: dict[str, Any]
    kind: str
    rng: random.Random
    said: set[str] = field(default_factory=set)  # phrases without a slot are said once

    def value(self, key: str) -> str | None:
        """The words of a slot: `name`, `effects.1`, `pain:effects.0` (a table), `@call` (a group); None if unknown."""
        if key.startswith("@"):
            return self.one(self.bank["groups"][key[1:]])
        table, _, inner = key.rpartition(":")
        if table:
            return cast(str | None, self.bank["tables"][table].get(self.value(inner)))
        name, _, index = key.partition(".")
        told = self.facts.get(name)
        if isinstance(told, list):
            told = str(self.bank["reading"]["separator"]).join(told[int(index) :][:1] if index else told)
        return told or None

    def one(self, options: list[str]) -> str | None:
        """A random option, its slots filled, among those that the prompt tells every slot of."""
        for option in self.rng.sample(options, len(options)):
            values = {key: self.value(key) for key in _SLOT.findall(option)}
            if None not in values.values() and option not in self.said:
                self.said |= {option} if option and not values else set()
                # Split and not replaced in turn: a value may itself hold braces. Odd pieces are slots.
                pieces = _SLOT.split(option)
                return "".join(str(values[piece]) if at % 2 else piece for at, piece in enumerate(pieces))
        return None

    def need(self, options: list[str]) -> str:
        if (text := self.one(options)) is None:
            slots = sorted({key for option in options for key in _SLOT.findall(option)})
            raise ValueError(f"the offline teacher needs {', '.join(slots)}, and the prompt does not tell one of them")
        return text


def compose(sheet: Sheet) -> str:
    """A sound text: one option per sentence of its type."""
    form = sheet.bank["types"][sheet.kind]
    return str(form["join"]).join(sheet.need(options) for options in form["sentences"])


def _sentences(sheet: Sheet, text: str) -> list[str]:
    return [part for part in re.findall(sheet.bank["reading"]["sentence"], text) if part]


def _insert(sheet: Sheet, text: str, step: Tree) -> str:
    parts = _sentences(sheet, text)
    for option in sheet.rng.sample(step["options"], min(step.get("count", 1), len(step["options"]))):
        # Never before the first sentence: a text must keep the opening of its type to be a hard negative.
        parts.insert(sheet.rng.randint(1, len(parts)), sheet.need([option]))
    return "".join(parts)


def _swap(sheet: Sheet, text: str, step: Tree) -> str:
    """One value of a list fact becomes an outsider that the sheet does not hold."""
    own = sheet.facts[step["fact"]]
    outsiders = [word for word in sheet.bank["groups"][step["group"]] if word not in own]
    return rewrite.beside(text, str(sheet.facts["name"]), {sheet.rng.choice(own): sheet.rng.choice(outsiders)})


def _close(sheet: Sheet, text: str, _step: Tree) -> str:
    form = sheet.bank["types"][sheet.kind]
    return text if re.search(form["closing"], text) else form["join"].join([text, sheet.need(form["sentences"][-1])])


def _change(sheet: Sheet, text: str, _step: Tree) -> str:
    told = str(sheet.facts.get("changes", ""))
    changes = dict(re.findall(sheet.bank["reading"]["change"], told))
    if not changes:
        raise ValueError(f"the offline teacher found no change in {told!r}; write one a line, as: old -> new")
    return rewrite.beside(text, str(sheet.facts["name"]), changes)


_STEPS: dict[str, Callable[[Sheet, str, Tree], str]] = {
    "write": lambda sheet, _text, _step: compose(sheet),
    "say": lambda sheet, _text, step: sheet.need(step["options"]),
    "wrap": lambda sheet, text, step: sheet.rng.choice(step["options"]).replace("{text}", text),
    "drop_last": lambda sheet, text, _step: "".join(_sentences(sheet, text)[:-1]).rstrip(),
    "insert": _insert,
    "swap": _swap,
    "strip": lambda _sheet, text, step: re.sub("|".join(step["patterns"]), "", text).strip(),
    "close": _close,
    "change": _change,
    "rephrase": lambda sheet, text, step: rewrite.rephrased(
        text, sheet.facts, step, lambda option: replace(sheet, said=set()).need([option]), sheet.rng
    ),
    # The fault it is for also says finish `length`, as a provider does at its limit.
    "cut": lambda sheet, text, step: text[: int(len(text) * sheet.rng.uniform(*step["keep"]))],
}


def read(bank: Tree, prompt: str) -> dict[str, Any]:
    """The facts that a prompt tells; list facts are split and lose their concentrations."""
    reading = bank["reading"]
    told = {name: re.search(pattern, prompt, re.M) for name, pattern in bank["fields"].items()}
    facts: dict[str, Any] = {name: found[1].strip() for name, found in told.items() if found}
    for name in set(reading["lists"]) & set(facts):
        facts[name] = [re.sub(reading["drop"], "", word) for word in facts[name].split(reading["separator"])]
    return facts


def _flawed(sheet: Sheet, text: str) -> Reply:
    """The text with at most one of the bank's planted faults, each at its own rate."""
    roll = sheet.rng.random()
    for fault in sheet.bank.get("faults", {}).values():
        if re.search(fault["types"], sheet.kind) and (roll := roll - fault["rate"]) < 0:
            return Reply(_STEPS[fault["do"]](sheet, text, fault), fault.get("finish", "stop"))
    return Reply(text)


def _echo(sheet: Sheet, settings: dict[str, Any]) -> Reply | None:
    """Now and then a teacher answers two types of one sheet with nearly the same words."""
    echo = sheet.bank.get("echo")
    # Replies share no memory: the pair is drawn from what its two requests have in common, the sheet and settings.
    shared = {key: value for key, value in sheet.facts.items() if key != "label"}
    if not echo or (rng := _seed(shared, settings)).random() >= echo["rate"]:
        return None
    first, second = rng.sample(sorted(sheet.bank["types"]), 2)
    if sheet.kind not in (first, second):
        return None
    text = compose(Sheet(sheet.bank, sheet.facts, first, rng))
    return Reply(text if sheet.kind == first else str(echo["edit"]).replace("{text}", text))


def teacher(folder: Path) -> Respond:
    """A teacher that answers from the bank in `folder`: the same request, the same words; any other, new ones.

    It raises ValueError (the server answers 400) for a prompt whose task, type or facts cannot be read.
    """
    bank = load(folder)
    labels = {form["label"]: kind for kind, form in bank["types"].items()}

    def respond(body: dict[str, Any]) -> Reply:
        # The system message counts too: a recipe may well put the sheet there.
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        facts = read(bank, prompt)
        task = next((t for t in bank["tasks"].values() if re.search(t["when"], prompt, re.M)), None)
        if task is None or facts.get("label") not in labels:
            raise ValueError(f"the offline teacher finds no task or no known content type in {prompt[-200:]!r}")
        sheet = Sheet(bank, facts, labels[facts["label"]], _seed(body))
        if task["do"] != "write":
            return Reply(_STEPS[task["do"]](sheet, str(facts.get("text", "")), task))
        return _echo(sheet, {**body, "messages": []}) or _flawed(sheet, compose(sheet))

    return respond
