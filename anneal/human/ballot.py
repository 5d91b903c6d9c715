"""The blind ballot: which texts a rater sees, on which side and in which order, and the key that names their systems.

The page for raters names no system. The key is a file of its own, and the page holds the key's hash, so that nobody
can exchange the key after the votes are in. Every choice is drawn from the seed: equal texts give an equal ballot.

An entry is one question of the ballot. A unit is a list of entries that stay together and in order: one entry of a pair
of texts, or all dimensions of a single text. Votes name the ballot by its id in their field `sheet`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anneal import html
from anneal.errors import UserError
from anneal.judging import rubric
from anneal.records import Record

Texts = Mapping[str, Mapping[str, str]]  # system -> record id -> text
Levels = Mapping[str, Mapping[str, list[str]]]  # content type -> dimension -> the sentences of scores 1 to 5
Entry = dict[str, Any]
Unit = list[Entry]


@dataclass(frozen=True)
class Ballot:
    """`key` names the system of each text, `shown` is the page's data; entries of both have equal order and ids."""

    key: dict[str, Any]
    shown: dict[str, Any]

    @property
    def key_text(self) -> str:
        """The content of the key file."""
        return json.dumps(self.key, ensure_ascii=False, sort_keys=True, indent=1) + "\n"

    @property
    def id(self) -> str:
        """The hash of the key file, by which the page and every vote name the ballot."""
        return sha256(self.key_text)


def sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def text_digest(text: str) -> str:
    """Identifies a text in the key, so that a vote is compared only with a judge's score of that very text."""
    return sha256(text)[:16]


def draw_records(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """At most `n` records: the content types in turn, and of each type a record whose item was drawn least so far.

    Each record has its own random rank, so that one record more or less changes the order of no others.
    """
    rank = {record["id"]: random.Random(f"{seed}/sheet/{record['id']}").random() for record in records}
    pools: dict[str, list[Record]] = {kind: [] for kind in sorted({record["type"] for record in records})}
    for record in records:
        pools[record["type"]].append(record)
    drawn_of_item: Counter[str] = Counter()
    drawn: list[Record] = []
    while len(drawn) < n and any(pools.values()):
        nonempty = [pool for pool in pools.values() if pool]
        for pool in nonempty[: n - len(drawn)]:
            record = min(pool, key=lambda r: (drawn_of_item[r["item"]], rank[r["id"]], r["id"]))
            pool.remove(record)
            drawn_of_item[record["item"]] += 1
            drawn.append(record)
    return drawn


def _entry(record: Record, sides: Sequence[str], texts: Texts, role: str = "vote") -> Entry:
    """One question; `sides` are the systems from left to right, `role` is vote, repeat or identical."""
    return {
        "item": record["item"],
        "type": record["type"],
        "record": record["id"],
        "sides": list(sides),
        "digests": [text_digest(texts[system][record["id"]]) for system in sides],
        "role": role,
        "dim": None,
        "of": None,
    }


def pair_entries(records: Sequence[Record], pairs: Sequence[tuple[str, str]], texts: Texts, seed: int) -> list[Entry]:
    """One entry for each record, the pairs in turn; each pair's systems are left equally often, also within a type."""
    offset = random.Random(f"{seed}/sides").randrange(2)
    entries = []
    for place, record in enumerate(sorted(records, key=lambda r: r["type"])):
        first, second = pairs[place % len(pairs)]
        swapped = (place // len(pairs) + offset) % 2
        entries.append(_entry(record, (second, first) if swapped else (first, second), texts))
    return entries


def order_units(units: Sequence[Unit], n_repeats: int, checks: Sequence[Unit], seed: int) -> list[Unit]:
    """The units in a random order, with repeats and attention checks at random places of the second half.

    The repeats are `n_repeats` units of the first third, with their sides swapped.
    """
    rng = random.Random(f"{seed}/order")
    order = rng.sample(list(units), len(units))
    half = (len(order) + 1) // 2
    # A repeat soon after its original measures memory: from the first third, at least a sixth of the ballot is between.
    first_third = order[: max(len(order) // 3, n_repeats)]
    repeats = [[_repeat(entry) for entry in unit] for unit in rng.sample(first_third, n_repeats)]
    for unit in [*repeats, *checks]:
        order.insert(rng.randint(half, len(order)), unit)
    return order


def _repeat(entry: Entry) -> Entry:
    """The same question with swapped sides; `of` names the record of the original until ids are assigned."""
    return {
        **entry,
        "sides": entry["sides"][::-1],
        "digests": entry["digests"][::-1],
        "role": "repeat",
        "of": entry["record"],
    }


def _assign_ids(units: Sequence[Unit], salt: str) -> list[Entry]:
    """The entries of all units with opaque ids; `of` of a repeat becomes the id of its original."""
    entries = [entry for unit in units for entry in unit]
    entries = [{**entry, "id": sha256(f"{salt}/{i}")[:12]} for i, entry in enumerate(entries)]
    originals = {(entry["record"], entry["dim"]): entry["id"] for entry in entries if entry["role"] == "vote"}
    return [{**entry, "of": originals[entry["of"], entry["dim"]] if entry["of"] else None} for entry in entries]


def _cut(text: str, cap: int) -> str:
    """A text without white space at its ends, cut to `cap` characters; 0 cuts nothing.

    White space at an end, or a text on one side that runs on and on, would tell the systems apart.
    """
    text = text.strip()
    return text if cap < 1 or len(text) <= cap else text[:cap].rstrip() + " …"


def _assemble(
    header: dict[str, Any], units: list[Unit], records: Sequence[Record], texts: Texts, levels: Levels
) -> Ballot:
    """Key and page data from the ordered units; `header` holds the fields of the key for the whole ballot."""
    prompts = {record["id"]: "\n\n".join(message["content"] for message in record["prompt"]) for record in records}
    salt = sha256(json.dumps([header, units], sort_keys=True, ensure_ascii=False))
    entries = _assign_ids(units, salt)
    key = {**header, "salt": salt, "entries": entries}

    # The dimensions of one text follow each other and share what the page shows.
    shown: list[Entry] = []
    questions: list[Entry] = []
    for entry in entries:
        sides = [_cut(texts[system][entry["record"]], header["cap"]) for system in entry["sides"]]
        view = {"prompt": prompts[entry["record"]], "texts": sides}
        if not shown or shown[-1] != view:
            shown.append(view)
        question = {"id": entry["id"], "show": len(shown) - 1}
        dimension = entry["dim"]
        if dimension:
            question |= {"dim": dimension, "levels": levels[entry["type"]][dimension]}
        questions.append(question)
    page_data = {
        "kind": header["kind"],
        "sheet": Ballot(key, {}).id,
        "question": header["question"],
        "entries": questions,
        "shown": shown,
    }
    return Ballot(key, page_data)


def pairs_ballot(
    records: Sequence[Record],
    texts: Texts,
    pairs: Sequence[tuple[str, str]],
    n: int,
    seed: int,
    question: str,
    repeat: float,
    identical: float,
    cap: int = 0,
) -> Ballot:
    """A ballot that asks which of two texts is better, on `n` records.

    `repeat` and `identical` are shares of `n`: questions that are asked twice, and attention checks that show one text
    on both sides. `cap` is in characters, 0 for none. Records with equal texts are not drawn, as nobody can tell these
    apart; the key counts them in `left_out`. UserError where all texts are equal.
    """

    def differs(record: Record) -> bool:
        return all(texts[a][record["id"]].strip() != texts[b][record["id"]].strip() for a, b in pairs)

    eligible = [record for record in records if differs(record)]
    if not eligible:
        raise UserError(f"{':'.join(pairs[0])}: no test record whose two texts differ; there is nothing to compare")
    drawn = draw_records(eligible, n, seed)
    drawn_ids = {record["id"] for record in drawn}
    others = [record for record in eligible if record["id"] not in drawn_ids]
    # The only answer to an attention check is a tie: a rater who prefers one of two equal texts is not reading.
    checks = [
        [_entry(record, [pairs[0][i % 2]] * 2, texts, "identical")]
        for i, record in enumerate(draw_records(others, round(len(drawn) * identical), seed))
    ]
    votes = [[entry] for entry in pair_entries(drawn, pairs, texts, seed)]
    units = order_units(votes, round(len(drawn) * repeat), checks, seed)
    header = {
        "kind": "pairs",
        "question": question,
        "pairs": [list(pair) for pair in pairs],
        "cap": cap,
        "seed": seed,
        "left_out": len(records) - len(eligible),
    }
    return _assemble(header, units, records, texts, {})


def rubric_levels(recipe: str) -> dict[str, dict[str, list[str]]]:
    """The sentences of scores 1 to 5, by content type and dimension, from the rubrics of the recipe's judge."""
    levels: dict[str, dict[str, list[str]]] = {}
    for kind, rules in rubric.folder(f"prompts/{recipe}/judge").items():
        for name in rules.header.dimensions:
            section = re.search(rf"^### {re.escape(name)}\b(.*?)(?=^#|\Z)", rules.prompt.text, re.M | re.S)
            sentences = re.findall(r"^- [1-5]\W+(.*)$", section[1] if section else "", re.M)
            levels.setdefault(kind, {})[name] = sentences
    return levels


def label_ballot(
    records: Sequence[Record],
    texts: Texts,
    systems: Sequence[str],
    n: int,
    seed: int,
    question: str,
    repeat: float,
    levels: Levels,
) -> Ballot:
    """A ballot that asks for the rubric's scores of single texts, on `n` records, the systems in turn.

    A record has one entry for each dimension of its type. `repeat` is the share of records that are asked twice.
    """
    drawn = sorted(draw_records(records, n, seed), key=lambda record: str(record["type"]))
    units = []
    for place, record in enumerate(drawn):
        entry = _entry(record, [systems[place % len(systems)]], texts)
        units.append([{**entry, "dim": dimension} for dimension in levels[record["type"]]])
    header = {"kind": "label", "question": question, "systems": list(systems), "cap": 0, "seed": seed}
    ordered = order_units(units, round(len(drawn) * repeat), [], seed)
    return _assemble(header, ordered, records, texts, levels)


def page(ballot: Ballot) -> str:
    """The HTML page for raters: one file without names of systems; its policy allows requests to its server only."""
    assets = Path(__file__).parent / "assets"
    words = json.loads((assets / "blind.json").read_text("utf-8"))
    style = (assets / "blind.css").read_text("utf-8")
    script = (assets / "blind.js").read_text("utf-8")
    main = html.el("main", html.el("noscript", "This page needs JavaScript."), id="app")
    body = html.join(main, html.data(ballot.shown, "sheet"), html.data(words, "words"))
    return html.page("anneal", body, style, script, connect="'self'")
