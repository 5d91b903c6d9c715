"""reject: for each kept text one that is worse: weak, exaggerated, with false facts, or the one that the source gave.

reads   data/filtered.jsonl, data/raw/<recipe>/offline, data/raw/<recipe>/rules, prompts/<recipe>/reject
writes  data/rejected.jsonl, reports/metrics/reject.json
params  recipe, reject, rules, seed, teacher, types
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from anneal import files, prompts
from anneal.checks import facts
from anneal.checks.facts import Vocabulary
from anneal.errors import UserError
from anneal.llm import client
from anneal.offline import phrase_teacher
from anneal.params import Section, Share
from anneal.records import Record, Row
from anneal.stage import run

Change = tuple[str, str, str]  # slot, the sheet's word, the false one
# Records with the kind of their worse answer; gives a row for each, None for one that failed.
Ask = Callable[[list[tuple[Record, str]]], list[Row | None]]


class Reject(Section):
    """Shares of the kinds; they add up to 1, or are all 0 for a recipe that makes none or whose source has its own."""

    source: Literal["teacher", "given"]
    weak: Share
    exaggerated: Share
    fake: Share

    @model_validator(mode="after")
    def _whole(self) -> Reject:
        whole = sum(self.shares.values())
        if min(abs(whole), abs(whole - 1)) > 1e-9:
            raise ValueError("weak, exaggerated and fake must add up to 1, or be 0 all three")
        if self.source == "given" and whole:
            raise ValueError("source given takes the texts of the source: weak, exaggerated and fake must be 0")
        return self

    @property
    def shares(self) -> dict[str, float]:
        return {"weak": self.weak, "exaggerated": self.exaggerated, "fake": self.fake}


def quotas(n: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers that add up to n, each the share's or next to it: largest remainders first."""
    exact = {kind: round(n * share, 9) for kind, share in shares.items()}
    whole = {kind: int(value) for kind, value in exact.items()}
    for kind in sorted(exact, key=lambda k: (whole[k] - exact[k], k))[: n - sum(whole.values())]:
        whole[kind] += 1
    return whole


def assign(records: list[Record], reject: Reject, seed: int) -> dict[str, str]:
    """Kind by record id: the quotas hold exactly over all records, and as nearly as can be in each content type.

    A record's place is its rank by hash within its type, as a share of the type: one record more moves the others of
    its type by less than a place, and only those at a border change their kind.
    """

    def order(record: Record) -> str:
        return hashlib.sha256(f"{seed}/reject/{record['id']}".encode()).hexdigest()

    places: list[tuple[float, str, str]] = []
    for kind in sorted({record["type"] for record in records}):
        ranked = sorted((r for r in records if r["type"] == kind), key=order)
        places += [((rank + 0.5) / len(ranked), order(r), r["id"]) for rank, r in enumerate(ranked)]
    kinds = [kind for kind, n in quotas(len(records), reject.shares).items() for _ in range(n)]
    return {name: kind for (_, _, name), kind in zip(sorted(places), kinds, strict=True)}


def falsify(record: Record, rules: facts.Rules, known: Vocabulary, seed: int) -> list[Change]:
    """One or two words of the sheet that the text names, each with a false one of the same slot."""
    sheet, text, rng = record["facts"], record["text"], random.Random(f"{seed}/falsify/{record['id']}")
    slots = [slot for slot in (*rules.foreign, *rules.also) if slot in known]
    held = facts.strings(sheet)
    told = [(slot, word) for slot in slots for word in facts.named(text, sheet, slot, known)]
    # A word inside the product name would take the name with it: replacing one fact would falsify another.
    name = str(sheet.get(rules.name, ""))
    told = [pair for pair in told if pair[1] not in name] or told
    changes: list[Change] = []
    for slot, word in rng.sample(told, min(len(told), rng.randint(1, 2))):
        taken = [*held, *(false for _, _, false in changes)]
        # Neither part nor whole of a true word: it must be plain that the reply tells the false one.
        false = [w for w in known[slot] if w not in text and not any(w in own or own in w for own in taken)]
        if false:
            changes.append((slot, word, rng.choice(false)))
    if not changes:
        raise UserError(
            f"{record['id']}: its text names no fact of {', '.join(slots) or 'rules.foreign'} that could be "
            "replaced; set reject.fake to 0"
        )
    return changes


def checker(record: Record, changes: list[Change], known: Vocabulary) -> Callable[[str], str]:
    """What a worse answer must be: another text, and with the false facts it was asked for."""

    def check(text: str) -> str:
        if "".join(text.split()) == "".join(record["text"].split()):
            raise ValueError("the same text as the chosen one")
        for slot, _, false in changes:
            if f"{slot}:{false}" not in facts.foreign(text, record["facts"], known, [slot]):
                raise ValueError(f"does not tell the false fact {false}")
        return text.strip()

    return check


def fill(records: list[Record], reject: Reject, seed: int, ask: Ask) -> list[Row]:
    """One worse answer for each record; those that fail are left out, and the shares are exact over the rest.

    When some fail, the kinds of the rest are drawn again; all but a few are the same, and only those few are asked.
    """
    made: dict[tuple[str, str], Row] = {}
    alive = records
    while True:
        kinds = assign(alive, reject, seed)
        todo = [(r, kinds[r["id"]]) for r in alive if (r["id"], kinds[r["id"]]) not in made]
        if not todo:
            return [made[r["id"], kinds[r["id"]]] for r in alive]
        fresh = dict(zip([(r["id"], kind) for r, kind in todo], ask(todo), strict=True))
        made |= {key: row for key, row in fresh.items() if row is not None}
        failed = {name for (name, _), row in fresh.items() if row is None}
        alive = [r for r in alive if r["id"] not in failed]


def given(records: list[Record]) -> list[Row]:
    """The source's own worse text of each record. Refuses a record that has none: no pair is left out in silence."""
    rows = []
    for record in records:
        if not (text := str(record.get("rejected") or "").strip()):
            raise UserError(
                f"data/filtered.jsonl: {record['id']}: no rejected text; name its column in "
                "generate.fields.rejected, or set reject.source to teacher"
            )
        row = {key: record[key] for key in ("id", "item", "type")}
        rows.append(row | {"kind": "given", "changes": [], "text": text})
    return rows


def main(
    recipe: str, reject: Reject, rules: facts.Rules, seed: int, teacher: client.Chat, types: dict[str, str]
) -> None:
    records = files.read("data/filtered.jsonl", "id", "item", "type", "facts", "text")
    bank, known = Path("data/raw") / recipe / "offline", facts.known(rules)
    wanted = [kind for kind, share in reject.shares.items() if share]
    asked = {kind: prompts.Prompt(Path("prompts") / recipe / "reject" / f"{kind}.md") for kind in wanted}
    answers: list[client.Answer] = []

    def ask(todo: list[tuple[Record, str]]) -> list[Row | None]:
        calls, rows = [], []
        for r, kind in todo:
            changes = falsify(r, rules, known, seed) if kind == "fake" else []
            told = "\n".join(f"{true} → {false}" for _, true, false in changes)
            slots = {**prompts.slots(r["facts"]), "label": types[r["type"]], "text": r["text"], "changes": told}
            # Two texts of one item and type get the same prompt for a weak one, and must not get the same answer.
            sample = int(r["id"].rsplit("/", 1)[-1])
            check = checker(r, changes, known)
            calls.append(client.Call(f"{r['id']}/{kind}", asked[kind].messages(**slots), sample, check))
            row = {key: r[key] for key in ("id", "item", "type")}
            rows.append(row | {"kind": kind, "changes": [[true, false] for _, true, false in changes]})
        fresh = client.ask(
            calls, teacher, "teacher", phrase_teacher.teacher(bank), material=bank, earlier=answers, total=len(records)
        )
        answers.extend(fresh)
        return [None if a.status == "failed" else {**r, "text": a.value} for r, a in zip(rows, fresh, strict=True)]

    rows = given(records) if reject.source == "given" else fill(records, reject, seed, ask) if wanted else []
    files.write("data/rejected.jsonl", rows)
    kinds = Counter(row["kind"] for row in rows)
    shares = {kind: n / len(rows) for kind, n in kinds.items()}
    metrics = {"n": len(rows), "kinds": kinds, "shares": shares} | client.bill(answers)
    files.write_json("reports/metrics/reject.json", metrics)


if __name__ == "__main__":
    run(main)
