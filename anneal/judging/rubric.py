"""Rubrics: a Markdown prompt for the judge, whose header holds the rules that can be checked without one.

The header is YAML between two `---` lines: types, dimensions with weights, gates, word lists, rules. The rules that
hold for a record travel inside its prompt, where the offline judge (`checker`) finds them and a model reads them.
Word lists that the checks share (`$banned`, `$encouraged`, `$exaggerated`) are slots filled from the rules folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from anneal import prompts
from anneal.checks.facts import Rules, own
from anneal.errors import UserError
from anneal.llm.blocks import unfenced
from anneal.llm.response import strict
from anneal.params import Count, Section
from anneal.records import Message

PARSER = 2  # part of judge_id: raise it when the same reply, or the same rules, may score another way
_HEADER = re.compile(r"\A---\n(.*?\n)---\n", re.S)
_TAG = re.compile(r"<(?=\s*/?\s*(?:sheet|checks|text)\b)", re.I)
Words = dict[str, list[str]]


class Rule(Section):
    """One check; each miss costs `cost` points of its dimension. Patterns are regular expressions with $slots.

    need: at least `limit` of the patterns, each within one sentence in which no `unless` matches. forbid: at most
    `limit` different matches, beside what `unless` matches. order: every pattern, one after another. length: at most
    `limit` characters, each further quarter a miss. repeat: at most `limit` sentences that were said before.
    """

    dimension: str
    check: Literal["need", "forbid", "order", "length", "repeat"]
    limit: int = Field(ge=0)
    cost: Count
    why: str
    of: list[str] = Field(default=[])
    unless: list[str] = Field(default=[])
    types: list[str] = Field(default=[])  # all of the rubric's, when empty
    where: Literal["all", "head", "tail"] = "all"  # of `need`: any, the first or the last sentence


class Header(Section):
    version: Count
    types: list[str]
    dimensions: dict[str, Annotated[float, Field(gt=0)]]  # with their weights
    gates: dict[str, float]  # rule -> the best total of a text that misses it
    words: Words
    rules: dict[str, Rule]
    optional: list[str] = Field(default=[])  # fields that a source need not have: a rule over one then sees no words


class Cell(Section):
    """One dimension of a verdict; in this order, so that the score follows from the reason."""

    reason: str
    quote: str
    score: int = Field(ge=1, le=5)


class Violation(Section):
    rule: str
    quote: str


class Verdict(Section):
    """The reply of a judge; strict, so that a total, a 4.5 or a "4" is no verdict."""

    dims: dict[str, Cell]
    violations: list[Violation]


def neutral(text: str) -> str:
    """Text that can neither close nor open a block of the prompt: the `<` of such a tag becomes a full-width one."""
    return _TAG.sub("＜", text)


def _any(words: list[str]) -> str:
    # Longest first: an alternation takes the first that fits, and a short word may begin a long one.
    return "(?:" + ("|".join(re.escape(w) for w in sorted(words, key=lambda w: (-len(w), w)) if w) or "(?!)") + ")"


def _fill(patterns: list[str], words: Words, choices: dict[str, str], apart: bool = False) -> list[str]:
    """Patterns with their slots filled; if `apart`, a bare slot gives one pattern for each of its words."""
    filled: list[str] = []
    for pattern in patterns:
        bare = apart and pattern[:1] == "$" and pattern[1:] in words
        filled += map(re.escape, words[pattern[1:]]) if bare else [Template(pattern).substitute(choices)]
    return filled


class Rubric:
    """One rubric file. Refuses a broken header, a dimension without rules, and one without its five levels."""

    def __init__(self, path: Path, rules: Rules | None = None) -> None:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        self.path, self.prompt = path, prompts.Prompt(path)
        # Slots that the rules folder fills: `$banned` and `$encouraged` like the words of the header, `$exaggerated`
        # as one pattern. Without rules the rubric can be read, but not shown to a judge if it has such a slot.
        self.lists: Words = {"banned": rules.banned, "encouraged": rules.encouraged} if rules else {}
        self.patterns = {"exaggerated": rules.exaggerated.any} if rules else {}
        found = _HEADER.match(self.prompt.text)
        try:
            self.header = Header.model_validate(YAML(typ="safe", pure=True).load(found[1] if found else ""))
        except YAMLError as err:
            raise UserError(f"{path}: header: not YAML: {' '.join(str(err).split())}") from None
        except ValidationError as err:
            place = ".".join(["header", *map(str, err.errors()[0]["loc"])])
            raise UserError(f"{path}: {place}: {err.errors()[0]['msg']}; it stands between two --- lines") from None
        self._refuse()

    def _refuse(self) -> None:
        header = self.header
        for name, rule in header.rules.items():
            if rule.dimension not in header.dimensions or not {*rule.types} <= {*header.types}:
                raise UserError(f"{self.path}: rules.{name}: names a dimension or a type that the header does not hold")
            for pattern in rule.of + rule.unless:
                try:
                    re.compile(re.sub(r"\$\{?\w+\}?", "x", pattern))
                except re.error as err:
                    raise UserError(f"{self.path}: rules.{name}: {pattern!r} is no regular expression: {err}") from None
        if unknown := sorted(header.gates.keys() - header.rules.keys()):
            raise UserError(f"{self.path}: gates.{unknown[0]}: no such rule; known: {', '.join(header.rules)}")
        for name in header.dimensions:
            section = re.search(rf"^### {re.escape(name)}\b(.*?)(?=^#|\Z)", self.prompt.text, re.M | re.S)
            if not section or re.findall(r"^- ([1-5])\W+\w", section[1], re.M) != list("12345"):
                raise UserError(f"{self.path}: '### {name}' needs one line for each level, `- 1：...` to `- 5：...`")
            for kind in header.types:
                if not any(rule.dimension == name for rule in self._of(kind).values()):
                    raise UserError(f"{self.path}: {name}: no rule checks it for {kind}; the offline judge needs one")

    def _of(self, kind: str) -> dict[str, Rule]:
        return {name: rule for name, rule in self.header.rules.items() if kind in (rule.types or [kind])}

    def _checks(self, kind: str, words: Words) -> str:
        """The rules for one type as JSON lines, the slots of their patterns filled; defaults are left out."""
        choices = {key: _any(values) for key, values in words.items()} | self.patterns
        lines: list[dict[str, Any]] = [{"dimensions": list(self.header.dimensions), "gates": list(self.header.gates)}]
        for name, rule in self._of(kind).items():
            row = {"rule": name, **rule.model_dump(exclude={"types", "of", "unless"}, exclude_defaults=True)}
            filled = {"of": _fill(rule.of, words, choices, apart=rule.check == "need")}
            filled["unless"] = _fill(rule.unless, words, choices)
            lines.append(row | {key: patterns for key, patterns in filled.items() if patterns})
        return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)

    def messages(self, kind: str, label: str, facts: dict[str, Any], known: Words, text: str) -> list[Message]:
        """The prompt for one text: its type, the sheet, the rules and the text; nothing about who wrote it."""
        sheet = dict.fromkeys(self.header.optional, "") | {k: neutral(v) for k, v in prompts.slots(facts).items()}
        # `<key>_names` of a list of objects are what the fact checks call its own words.
        words = {key: [neutral(word) for word in own(facts, key.removesuffix("_names"))] for key in sheet}
        words["numbers"] = sorted(set(re.findall(r"\d+(?:\.\d+)?", " ".join(sheet.values()))))
        words |= {f"known_{slot}": values for slot, values in known.items()}
        words |= self.lists | self.header.words | {"label": [label]}
        values = {
            **self.patterns,
            **{key: "、".join(listing) for key, listing in words.items()},
            **sheet,
            "text": neutral(text),
        }
        self.prompt.render(**values, checks="")  # refuses an unknown slot, also one of a rule, with its line
        messages = self.prompt.messages(**values, checks=neutral(self._checks(kind, words)))
        return [Message(role=message["role"], content=message["content"]) for message in messages]

    def parse(self, reply: str) -> dict[str, Any]:
        """A verdict: for every dimension reason, quote and score 1..5, and the gates that are broken; or ValueError."""
        text = unfenced(reply)
        try:
            Verdict.model_validate_json(text)
        except ValidationError as err:
            raise ValueError("; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in err.errors())) from None
        verdict: dict[str, Any] = strict(text)
        if set(verdict["dims"]) != set(self.header.dimensions):
            raise ValueError(f"dims: expected {', '.join(self.header.dimensions)}, got {', '.join(verdict['dims'])}")
        if any(list(cell) != list(Cell.model_fields) for cell in verdict["dims"].values()):
            raise ValueError(f"dims: expected {', '.join(Cell.model_fields)}, in this order")
        if unknown := {entry["rule"] for entry in verdict["violations"]} - self.header.gates.keys():
            raise ValueError(f"violations: {min(unknown)!r} is none of {', '.join(self.header.gates)}")
        return verdict

    def total(self, verdict: dict[str, Any]) -> float:
        """The weighted mean of the scores, no better than the strictest gate that the text breaks."""
        weights = self.header.dimensions
        points: float = sum(weights[name] * cell["score"] for name, cell in verdict["dims"].items())
        caps = [self.header.gates[entry["rule"]] for entry in verdict["violations"]]
        # Rounded, so that five fives are 5 and not the next number below it.
        return round(min([points / sum(weights.values()), *caps]), 6)

    def filled(self) -> dict[str, list[str] | str]:
        """What the rules folder fills of this file's slots."""
        material: dict[str, list[str] | str] = {**self.lists, **self.patterns}
        return {key: value for key, value in material.items() if key in self.prompt.slots}

    def judge_id(self, model: dict[str, Any], known: Words) -> str:
        """What a score depends on beside the record: this file, the model and its params, the words, the parser."""
        file = hashlib.sha256(self.path.read_bytes()).hexdigest()
        parts = [file, model, known, self.filled(), Verdict.model_json_schema(), PARSER]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def folder(path: str | Path, rules: Rules | None = None) -> dict[str, Rubric]:
    """The rubric of every type; UserError where two files claim the same. `rules` fill the slots of the word lists."""
    rubrics: dict[str, Rubric] = {}
    for prompt in prompts.folder(path).values():
        rubric = Rubric(prompt.path, rules)
        for kind in rubric.header.types:
            if kind in rubrics:
                raise UserError(f"{rubric.path}: types: {kind} has its rubric in {rubrics[kind].path}; keep one")
            rubrics[kind] = rubric
    return rubrics
