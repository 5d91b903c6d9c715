"""The grammar corpus draws documents for a tiny model from the rules of one folder, for tasks without a fact sheet.

`grammar.json` holds whole-word tokens, rules (a name and its equally likely alternatives) and documents (questions and
answers, or plain text, with their weights); a `prose.txt` beside it makes a rule `prose` of its paragraphs. In a
template `{name}` prints a bound value or else a fresh expansion of the rule, `{x=name}` binds what it prints,
`{!x=name}` binds in silence, `{name*2-5|, }` prints two to five expansions joined by a comma, `{{` is a brace.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from anneal.errors import UserError
from anneal.params import Section
from anneal.tiny.documents import ANSWER, END, GIVEN, START, STOP, Document

_PART = re.compile(r"(\{\{|\}\})|\{([^{}]*)\}")
_SLOT = re.compile(
    r"(?:(?P<quiet>!)?(?P<bind>\w+)=)?(?P<name>\w+)(?:\*(?P<low>\d+)(?:-(?P<high>\d+))?\|(?P<join>.*))?", re.S
)
_DEEP = 60  # nested expansions; a deeper rule is taken to expand into itself


class Kind(Section):
    """Documents of one kind: turns (question, answer, ...) or a text; `probe`: asked when the model is made."""

    weight: float
    turns: list[str] = Field(default=[])
    text: str = ""
    system: str = ""
    probe: bool = False


class _File(Section):
    tokens: list[str]
    rules: dict[str, list[str]]
    documents: dict[str, Kind]
    held_out: list[str] = Field(default=[])


class Slot(NamedTuple):
    quiet: bool
    bind: str
    name: str
    low: int
    high: int
    join: str


Template = list[str | Slot]


def parse(text: str, place: str) -> Template:
    """A template as literals and slots. Raises UserError for a brace that is neither."""
    parts: Template = []
    end = 0
    for match in _PART.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match[1]:
            parts.append(match[1][0])
            continue
        slot = _SLOT.fullmatch(match[2])
        if not slot:
            raise UserError(f"{place}: {match[0]!r} is no slot; write {{name}}, {{x=name}}, {{name*2-5|, }} or {{{{")
        low = int(slot["low"] or 1)
        high = int(slot["high"] or low)
        parts.append(Slot(bool(slot["quiet"]), slot["bind"] or "", slot["name"], low, high, slot["join"] or ""))
    parts.append(text[end:])
    for literal in (part for part in parts if isinstance(part, str) and part not in ("{", "}")):
        if "{" in literal or "}" in literal:
            raise UserError(f"{place}: a lone brace in {literal!r}; double it")
    return [part for part in parts if part != ""]


class Grammar:
    """The documents of one folder. Methods take the generator they draw from, so that a seed is a document."""

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / "grammar.json"
        try:
            self.file = _File.model_validate_json(path.read_text("utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; base.corpus needs it for base.documents: grammar") from None
        except ValidationError as err:
            first = err.errors()[0]
            raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        self.rules = {
            name: [parse(words, f"{path}: rules.{name}") for words in each] for name, each in self.file.rules.items()
        }
        text = self.file.model_dump_json()  # read, not as written: there a character may be an escape
        for prose in sorted(Path(folder).glob("*.txt")):
            told = prose.read_text("utf-8")
            text += told
            # Taken as it stands: a brace of a text opens no slot.
            self.rules[prose.stem] = [[part.strip()] for part in re.split(r"\n\s*\n", told) if part.strip()]
        self.documents = {
            name: [parse(words, f"{path}: documents.{name}") for words in (kind.system, kind.text, *kind.turns)]
            for name, kind in self.file.documents.items()
        }
        self._refuse(path)
        self.held_out = self.file.held_out
        self.words = list(dict.fromkeys(token for token in self.file.tokens if len(token) > 1))
        counts = Counter(c for c in text if not c.isascii())
        self.characters = sorted(counts, key=lambda c: (-counts[c], c))  # by falling frequency
        letters = [chr(code) for code in range(33, 127)]
        self.pools = [self.words, self.characters or letters, [*self.words, *self.characters, *letters]]

    def _refuse(self, path: Path) -> None:
        every = [template for each in (*self.rules.values(), *self.documents.values()) for template in each]
        slots = [part for template in every for part in template if isinstance(part, Slot)]
        known = {*self.rules, *(slot.bind for slot in slots)}
        if strange := sorted({slot.name for slot in slots} - known):
            raise UserError(f"{path}: {{{strange[0]}}} is neither a rule nor bound; rules: {', '.join(self.rules)}")
        for name, alternatives in self.rules.items():
            if not alternatives:
                raise UserError(f"{path}: rules.{name}: has no alternative")
        for name, kind in self.file.documents.items():
            if bool(kind.text) == bool(kind.turns) or len(kind.turns) % 2:
                raise UserError(f"{path}: documents.{name}: give it a text, or questions and answers in turn")

    def expand(self, rng: random.Random, template: Template, bound: dict[str, str], depth: int = 0) -> str:
        """The text of a template; what it binds goes into `bound`."""
        if depth > _DEEP:
            raise UserError("base.corpus: a rule of grammar.json expands into itself without end")
        told = []
        for part in template:
            if isinstance(part, str):
                told.append(part)
                continue
            pieces = []
            for _ in range(rng.randint(part.low, part.high)):
                known = bound.get(part.name)
                pieces.append(
                    self.expand(rng, rng.choice(self.rules[part.name]), bound, depth + 1) if known is None else known
                )
            words = part.join.join(pieces)
            if part.bind:
                bound[part.bind] = words
            told.append("" if part.quiet else words)
        return "".join(told)

    def dense(self, rng: random.Random) -> Document:
        """A drill: a row of random tokens, repeated, which teaches heads to copy in the fewest steps."""
        n = rng.choice([4, 6, 8, 12, 16])
        row = "".join(rng.choices(rng.choice(self.pools), k=n)) + "\n"
        return [(row, GIVEN), (row * rng.choice([2, 3, 4] if n > 8 else [4, 6, 8]), ANSWER)]

    def drawn(self, rng: random.Random, name: str) -> tuple[str, list[str]]:
        """System message and turns of a document of one kind, or its text alone."""
        bound: dict[str, str] = {}
        system, *rest = (self.expand(rng, template, bound) for template in self.documents[name])
        return system, rest

    def document(self, rng: random.Random, dense: float) -> Document:
        """One fresh document, a dense drill with probability `dense`. It never holds what is held out."""
        kinds = self.file.documents
        while True:
            if rng.random() < dense:
                parts = self.dense(rng)
            else:
                name = rng.choices(list(kinds), [kind.weight for kind in kinds.values()])[0]
                system, (text, *turns) = self.drawn(rng, name)
                parts = [(f"{START}system\n{system}{END}\n", GIVEN)] if system else []
                parts += [(text + STOP, ANSWER / 2)] if text else []
                for question, answer in zip(turns[::2], turns[1::2], strict=True):
                    asked = f"{START}user\n{question}{END}\n{START}assistant\n"
                    parts += [(asked, GIVEN), (answer + END, ANSWER), ("\n", GIVEN)]
            if not any(words in piece for piece, _ in parts for words in self.held_out):
                return parts

    def questions(self, seed: str, n: int) -> dict[str, list[tuple[str, str]]]:
        """`n` first questions of every kind that is a probe, each with its answer."""
        return {
            name: [tuple(self.drawn(random.Random(f"{seed}/{name}/{i}"), name)[1][1:3]) for i in range(n)]  # type: ignore[misc]
            for name, kind in self.file.documents.items()
            if kind.probe
        }
