"""A closed world: which words of a text are facts, and does the sheet hold them.

Every ingredient or effect there is stands in one vocabulary, so that a word of it that the sheet does not hold is a
false fact; no model has to judge it. Words outside the vocabulary are invisible to this checker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from anneal.errors import UserError
from anneal.params import Section, load

# Claims that promise too much, by the patterns of a recipe; a clause that denies one is no promise.

_CLAUSE = re.compile(r"[\w%％][\w%％ ]*")  # a run of words between marks of punctuation


def found(text: str, own: re.Pattern[str], patterns: Sequence[str]) -> list[str]:
    """What each pattern finds first; it is searched in each clause, whose beginning is `^`.

    `own` are the sheet's words, product name and ingredients, which promise nothing and may hold a sign of denial.
    """
    clauses = _CLAUSE.findall(own.sub("_", text))
    hits = [next((match[0] for clause in clauses if (match := re.search(p, clause))), None) for p in patterns]
    return [hit for hit in hits if hit is not None]


Facts = dict[str, Any]
Vocabulary = dict[str, list[str]]
NUMBERS = "numbers"  # the slot that needs no vocabulary: a number with its unit
_NARROW = str.maketrans("０１２３４５６７８９．％", "0123456789.%")
_NUMBER = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)\s?([%‰℃]|[A-Za-z]+|[\u4e00-\u9fff])?")
_ENUMERATION = re.compile(r"^[ \t]*\d+[.、)）](?!\d)", re.M)  # "1. " opens a list item and states nothing


def _compiles(pattern: str) -> str:
    try:
        return re.compile(pattern).pattern
    except re.error as err:
        raise ValueError(f"not a regular expression: {err}") from None


Pattern = Annotated[str, AfterValidator(_compiles)]


class Contract(Section):
    """What makes a text one of its type; patterns are searched in the whole text, `^` is its start."""

    require: list[Pattern]
    forbid: list[Pattern]
    length: Annotated[list[int], Field(min_length=2, max_length=2)]  # characters, both ends allowed


class Named(Section):
    """How many of the sheet's own values of a slot a text must name, beside those inside the product name."""

    slot: str
    at_least: Annotated[int, Field(ge=0)]


class Promises(Section):
    """Exaggerated claims: each pattern is searched behind the look-behind `unless`, which bars a denied promise."""

    unless: Pattern
    patterns: list[Pattern]

    @property
    def searched(self) -> list[str]:
        """Each pattern with the look-behind before it; `^` is the start of the clause it is searched in."""
        return [self.unless + pattern for pattern in self.patterns]

    @property
    def any(self) -> str:
        """One pattern that fits where one of them does."""
        return f"{self.unless}(?:{'|'.join(self.patterns)})" if self.patterns else "(?!)"


class Words(Section):
    """words.yaml of the rules folder: what the house says and never says."""

    banned: list[str]
    encouraged: list[str]
    exaggerated: Promises


class Contracts(Section):
    """contracts.yaml of the rules folder: the marks that no type may hold, and the contract of each type."""

    forbid: list[Pattern]
    types: dict[str, Contract]


FILES: dict[str, type[Section]] = {"words.yaml": Words, "contracts.yaml": Contracts}


def _material(path: Path, kind: type[Section]) -> dict[str, Any]:
    """The keys of one file of the rules folder, checked. Raises UserError with file, key and value."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; rules.folder names its folder, which holds {', '.join(FILES)}")
    values = load(path)
    try:
        kind.model_validate(values)
    except ValidationError as err:
        error = err.errors()[0]
        place = ".".join(str(part) for part in error["loc"])
        raise UserError(f"{path}: {place}: {error['msg']}, got {error['input']!r}") from None
    return values


class Rules(Section):
    """What a right text is: the section of params.yaml and the files of its folder.

    The word lists and contracts are material of a recipe and stand in FILES. A key that params give as well takes the
    place of the file's, for an experiment. `foreign` slots decide strict, `also` slots only all_facts.
    """

    folder: str  # holds FILES, vocabulary.json, and schema.json or rhymes.json for the checks that need them
    name: str  # the fact that must appear word for word; empty for none
    facts: Named
    foreign: list[str]
    also: list[str]
    banned: list[str]
    exaggerated: Promises
    encouraged: list[str]  # never a reason to fail; measured as style
    forbid: list[Pattern]  # of every type
    types: dict[str, Contract]

    @model_validator(mode="before")
    @classmethod
    def _read_folder(cls, values: Any) -> Any:
        """Add what params leave to the files of the folder."""
        if not isinstance(values, dict) or not isinstance(values.get("folder"), str):
            return values  # refused by the fields
        read: dict[str, Any] = {}
        for name, kind in FILES.items():
            if not set(kind.model_fields) <= set(values):
                read |= _material(Path(values["folder"]) / name, kind)
        return {**read, **values}

    @field_validator("exaggerated", mode="before")
    @classmethod
    def _of_list(cls, value: Any) -> Any:
        """A list of patterns has the look-behinds that it needs."""
        return {"unless": "", "patterns": value} if isinstance(value, list) else value


def known(rules: Rules) -> Vocabulary:
    """The closed world, slot to words. Refuses what is not `{slot: [word, ...]}`."""
    return vocabulary(Path(rules.folder) / "vocabulary.json")


def vocabulary(path: str | Path) -> Vocabulary:
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; rules.folder names its folder") from None
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    for slot, words in found.items() if isinstance(found, dict) else [("the file", None)]:
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise UserError(f"{path}: {slot}: expected a list of words in each slot of an object")
    return dict(found)


def strings(value: Any) -> list[str]:
    """Every string inside a value, in order."""
    if isinstance(value, str):
        return [value] if value else []
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in strings(part)]


def own(facts: Facts, slot: str) -> list[str]:
    """The sheet's values of a slot; of an object its `name`."""
    values = facts.get(slot, [])
    named = [v["name"] if isinstance(v, dict) else str(v) for v in (values if isinstance(values, list) else [values])]
    return [word for word in named if word]  # an empty cell of a table is no value


def _edged(word: str) -> str:
    """The word as a pattern: Latin letters and digits must end where it ends, Chinese has no such edge."""
    left = r"(?<![A-Za-z0-9])" if word[0].isascii() and word[0].isalnum() else ""
    right = r"(?![A-Za-z0-9])" if word[-1].isascii() and word[-1].isalnum() else ""
    return f"{left}{re.escape(word)}{right}"


@lru_cache(maxsize=4096)
def _any(words: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first: at one place the regex engine takes the first branch that fits.
    return re.compile("|".join(map(_edged, sorted(set(words), key=lambda w: (-len(w), w)))) or r"(?!)", re.I)


def _told(text: str, facts: Facts, words: Iterable[str]) -> list[str]:
    """The words found in a text, in order, in one scan where they compete by length with the sheet's own strings.

    Masking the own words first would hide a longer foreign name that contains one; looking for foreign words first
    would find them inside the sheet's own names.
    """
    known = {word.casefold(): word for word in words}
    found = _any((*known.values(), *strings(facts))).findall(text)
    return [known[match.casefold()] for match in found if match.casefold() in known]


def _numbers(text: str) -> dict[str, tuple[float, str]]:
    """Every number as written to its (value, unit)."""
    found = _NUMBER.finditer(_ENUMERATION.sub("", text.translate(_NARROW)))
    return {match[0].strip(): (float(match[1]), (match[2] or "").casefold()) for match in found}


def _foreign_numbers(text: str, facts: Facts, words: Iterable[str]) -> list[str]:
    held = {number for string in strings(facts) for number in _numbers(string).values()}
    held |= {(value, "") for value, _ in held}  # a bare number, as in "2 to 3%", may lack the unit of the sheet
    # A digit inside a name (a coenzyme, a sun protection class) belongs to the name.
    rest = _any((*words, *own(facts, "name"))).sub("\0", text)
    return [written for written, number in _numbers(rest).items() if number not in held]


def foreign(text: str, facts: Facts, vocabulary: Vocabulary, slots: list[str]) -> list[str]:
    """`slot:word` for every word the world knows and the sheet does not hold, once each, in order of appearance.

    The slot `numbers` holds numbers with their unit; 5% and 5.0 % are the same, 5% and 5mg are not.
    """
    hits: dict[str, None] = {}
    for slot in slots:
        if slot == NUMBERS:
            every = [word for words in vocabulary.values() for word in words]
            hits |= dict.fromkeys(f"{slot}:{number}" for number in _foreign_numbers(text, facts, every))
        elif slot not in vocabulary:
            raise UserError(f"rules: the vocabulary has no slot {slot!r}; it has {', '.join(sorted(vocabulary))}")
        else:
            held = {word.casefold() for word in strings(facts)}
            told = _told(text, facts, vocabulary[slot])
            hits |= dict.fromkeys(f"{slot}:{word}" for word in told if word.casefold() not in held)
    return list(hits)


def _bare(text: str, facts: Facts) -> str:
    """The text without the product's own name, which holds name parts and often an ingredient word."""
    return text.replace(str(facts.get("name") or "\n"), "\n")


def second_names(text: str, facts: Facts, vocabulary: Vocabulary) -> list[str]:
    """Product names other than this one: two or more name parts followed by a category."""
    parts, ends = (_any(tuple(vocabulary.get(slot, []))).pattern for slot in ("name_parts", "categories"))
    # Two parts at least: one part and a category is ordinary language ("a moisturising cream").
    return list(dict.fromkeys(re.findall(f"(?:{parts}){{2,}}(?:{ends})", _bare(text, facts))))


def named(text: str, facts: Facts, slot: str, vocabulary: Vocabulary) -> list[str]:
    """The sheet's own values of a slot that the text names outside the product name."""
    told = _told(_bare(text, facts), {}, [*own(facts, slot), *vocabulary.get(slot, [])])
    return [word for word in own(facts, slot) if word in told]


def check(text: str, kind: str, facts: Facts, rules: Rules, vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Rule to hits; an empty list is a pass. `all_facts` repeats the hits of every other rule and adds its own.

    Raises UserError for a type without a contract: a text nobody checks must not count as right.
    """
    if kind not in rules.types:
        raise UserError(f"params.yaml: rules.types: no contract for {kind!r}; it has {', '.join(sorted(rules.types))}")
    contract = rules.types[kind]
    missing = [f"missing {pattern}" for pattern in contract.require if not re.search(pattern, text)]
    name = str(facts[rules.name]) if rules.name else ""
    wanted = own(facts, rules.facts.slot)
    told = named(text, facts, rules.facts.slot, vocabulary)
    hits = {
        "type": missing + [f"found {m[0]}" for p in (*contract.forbid, *rules.forbid) if (m := re.search(p, text))],
        "name": [] if name in text else [name],
        "facts": [w for w in wanted if w not in told] if len(told) < min(rules.facts.at_least, len(wanted)) else [],
        "foreign": foreign(text, facts, vocabulary, rules.foreign),
        "banned": [word for word in rules.banned if word.casefold() in text.casefold()],
        "exaggerated": found(text, _any(tuple(strings(facts))), rules.exaggerated.searched),
        "length": [] if contract.length[0] <= len(text) <= contract.length[1] else [str(len(text))],
    }
    also = foreign(text, facts, vocabulary, rules.also)
    every = [f"{rule}:{hit}" for rule, each in hits.items() for hit in each]
    hits |= {"all_facts": every + also + second_names(text, facts, vocabulary), "unsupported": hits["foreign"] + also}
    return hits
