"""A blind sheet: which texts a rater sees, on which side and in which order, and the key that says whose they are.

The page that a rater is given names no system; the key is a file of its own, and the page holds its hash, so that
nobody can swap the key after the votes are in. Everything is drawn from the seed: the same texts give the same sheet.
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
Entry = dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """`key` holds whose each text is, `shown` what a rater sees; entries of both have the same order and ids."""

    key: dict[str, Any]
    shown: dict[str, Any]

    @property
    def sealed(self) -> str:
        """The key as its file holds it."""
        return json.dumps(self.key, ensure_ascii=False, sort_keys=True, indent=1) + "\n"

    @property
    def name(self) -> str:
        return seal(self.sealed)


def seal(key: str) -> str:
    """What the page and every vote name a sheet by: the SHA-256 of its key file."""
    return hashlib.sha256(key.encode()).hexdigest()


def digest(text: str) -> str:
    """Names a text in the key, so that a vote is never set beside the score of a text that came after it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """At most `n` records: the types in turn, and of each type a record whose item was drawn least so far."""
    rank = {r["id"]: random.Random(f"{seed}/sheet/{r['id']}").random() for r in records}
    waiting: dict[str, list[Record]] = {kind: [] for kind in sorted({r["type"] for r in records})}
    for record in records:
        waiting[record["type"]].append(record)
    used: Counter[str] = Counter()
    chosen: list[Record] = []
    while len(chosen) < n and any(waiting.values()):
        for pool in [pool for pool in waiting.values() if pool][: n - len(chosen)]:
            record = min(pool, key=lambda r: (used[r["item"]], rank[r["id"]], r["id"]))
            pool.remove(record)
            used[record["item"]] += 1
            chosen.append(record)
    return chosen


def _entry(record: Record, sides: Sequence[str], texts: Texts, role: str = "vote") -> Entry:
    row = {key: record[key] for key in ("item", "type")} | {"record": record["id"], "sides": list(sides)}
    return {**row, "digests": [digest(texts[s][record["id"]]) for s in sides], "role": role, "dim": None, "of": None}


def sided(chosen: Sequence[Record], pairs: Sequence[tuple[str, str]], texts: Texts, seed: int) -> list[Entry]:
    """An entry for each record: pairs in turn, and each pair's systems left as often as right, also within a type."""
    turn = random.Random(f"{seed}/sides").randrange(2)
    entries = []
    for place, record in enumerate(sorted(chosen, key=lambda r: r["type"])):
        first, second = pairs[place % len(pairs)]
        swap = (place // len(pairs) + turn) % 2
        entries.append(_entry(record, (second, first) if swap else (first, second), texts))
    return entries


def arrange(units: Sequence[list[Entry]], again: int, others: Sequence[list[Entry]], seed: int) -> list[list[Entry]]:
    """Units in a drawn order; `again` of its first third come back, sides swapped, in the second half, `others` too."""
    rng = random.Random(f"{seed}/order")
    order = rng.sample(list(units), len(units))
    half = (len(order) + 1) // 2
    # A repeat that follows its original closely measures memory; a third of the sheet lies between most of them.
    back = [
        [
            {**e, "sides": e["sides"][::-1], "digests": e["digests"][::-1], "role": "repeat", "of": e["record"]}
            for e in unit
        ]
        for unit in rng.sample(order[: max(len(order) // 3, again)], again)
    ]
    for unit in [*back, *others]:
        order.insert(rng.randint(half, len(order)), unit)
    return order


def _number(units: Sequence[list[Entry]], salt: str) -> list[Entry]:
    """Opaque ids; a repeat names the id of its original."""
    entries = [{**entry, "id": seal(f"{salt}/{i}")[:12]} for i, entry in enumerate(e for unit in units for e in unit)]
    first = {(e["record"], e["dim"]): e["id"] for e in entries if e["role"] == "vote"}
    return [{**e, "of": first[e["of"], e["dim"]] if e["of"] else None} for e in entries]


def _finish(
    head: dict[str, Any],
    units: list[list[Entry]],
    records: Sequence[Record],
    texts: Texts,
    levels: Mapping[str, Mapping[str, list[str]]],
) -> Sheet:
    """Key and page from the arranged units; `head` is what the key says of the whole sheet."""
    prompts = {r["id"]: "\n\n".join(m["content"] for m in r["prompt"]) for r in records}
    salt = seal(json.dumps([head, units], sort_keys=True, ensure_ascii=False))
    entries = _number(units, salt)

    def cut(text: str) -> str:
        # White space at an end would tell the sides apart, and so would one side alone that runs on and on.
        text, cap = text.strip(), head["cap"]
        return text if cap < 1 or len(text) <= cap else text[:cap].rstrip() + " …"

    shown: list[Entry] = []
    places: list[Entry] = []
    for entry in entries:
        made = {"prompt": prompts[entry["record"]], "texts": [cut(texts[s][entry["record"]]) for s in entry["sides"]]}
        if not shown or shown[-1] != made:
            shown.append(made)
        row = {"id": entry["id"], "show": len(shown) - 1}
        places.append(row | ({"dim": d, "levels": levels[entry["type"]][d]} if (d := entry["dim"]) else {}))
    sheet = Sheet({**head, "salt": salt, "entries": entries}, {})
    top = {"kind": head["kind"], "sheet": sheet.name, "question": head["question"]}
    return Sheet(sheet.key, {**top, "entries": places, "shown": shown})


def compare(
    records: Sequence[Record],
    texts: Texts,
    pairs: Sequence[tuple[str, str]],
    n: int,
    seed: int,
    question: str,
    repeat: float,
    same: float,
    cap: int = 0,
) -> Sheet:
    """Pairs of texts. Texts that are the same are not drawn: nobody can tell them apart, and `left_out` counts them."""

    def differ(r: Record) -> bool:
        return all(texts[a][r["id"]].strip() != texts[b][r["id"]].strip() for a, b in pairs)

    able = [r for r in records if differ(r)]
    if not able:
        raise UserError(f"{':'.join(pairs[0])}: no test record whose two texts differ; there is nothing to compare")
    chosen = draw(able, n, seed)
    taken = {r["id"] for r in chosen}
    spare = draw([r for r in able if r["id"] not in taken], round(len(chosen) * same), seed)
    # Identical texts ask for a tie: whoever prefers one of them is not reading.
    checks = [[_entry(r, [pairs[0][i % 2]] * 2, texts, "identical")] for i, r in enumerate(spare)]
    units = arrange([[e] for e in sided(chosen, pairs, texts, seed)], round(len(chosen) * repeat), checks, seed)
    head = {"kind": "pairs", "question": question, "pairs": [list(pair) for pair in pairs], "cap": cap, "seed": seed}
    return _finish({**head, "left_out": len(records) - len(able)}, units, records, texts, {})


def levels(recipe: str) -> dict[str, dict[str, list[str]]]:
    """The five sentences of every dimension, by content type, as the judge's rubric has them."""
    found: dict[str, dict[str, list[str]]] = {}
    for kind, rules in rubric.folder(f"prompts/{recipe}/judge").items():
        for name in rules.header.dimensions:
            section = re.search(rf"^### {re.escape(name)}\b(.*?)(?=^#|\Z)", rules.prompt.text, re.M | re.S)
            lines = re.findall(r"^- [1-5]\W+(.*)$", section[1] if section else "", re.M)
            found.setdefault(kind, {})[name] = lines
    return found


def label(
    records: Sequence[Record],
    texts: Texts,
    systems: Sequence[str],
    n: int,
    seed: int,
    question: str,
    repeat: float,
    levels: Mapping[str, Mapping[str, list[str]]],
) -> Sheet:
    """Single texts to score, the systems in turn; `levels` holds the sentences of each dimension of each type."""
    chosen = sorted(draw(records, n, seed), key=lambda r: str(r["type"]))
    units = []
    for place, record in enumerate(chosen):
        entry = _entry(record, [systems[place % len(systems)]], texts)
        units.append([{**entry, "dim": dim} for dim in levels[record["type"]]])
    head = {"kind": "label", "question": question, "systems": list(systems), "cap": 0, "seed": seed}
    return _finish(head, arrange(units, round(len(chosen) * repeat), [], seed), records, texts, levels)


def document(sheet: Sheet) -> str:
    """The page that a rater is given: one file, no names; its policy lets it speak to its own server and nobody."""
    assets = Path(__file__).parent / "assets"
    words = json.loads((assets / "blind.json").read_text("utf-8"))
    shown = html.join(html.data(sheet.shown, "sheet"), html.data(words, "words"))
    body = html.join(html.el("main", html.el("noscript", "This page needs JavaScript."), id="app"), shown)
    style, script = ((assets / name).read_text("utf-8") for name in ("blind.css", "blind.js"))
    return html.page("anneal", body, style, script, connect="'self'")
