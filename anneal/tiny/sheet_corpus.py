"""The sheet corpus draws short documents without end, from which a tiny model learns to read a sheet and copy from it.

Every word comes from the JSON files of one folder. A document is a list of parts, each a piece of text with the weight
of its loss: a random draw cannot be predicted, so sheets and questions weigh little and answers weigh one.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from anneal.errors import UserError
from anneal.tiny.documents import ANSWER, END, GIVEN, START, STOP, Document

Sheet = dict[str, str]  # what sentences may name: name, ingredients, first, second, last, effects, effect, ...

_FILES = {
    "words": (
        "ingredients ingredient_parts effects effect_parts complaints skin_types categories labels audiences "
        "trouble domains common characters name_characters held_out"
    ),
    "sentences": "name ingredients effects both skin complaint plain",
    "word_groups": "groups sentences",
    "prompts": (
        "separator comma colon stop ends keys label_keys extra_keys systems copy describe ask_value "
        "answer_value ask_one ordered ask_ordered ask_format tail_format mix"
    ),
    "formats": "",
}
_GROUPS = [*["name", "ingredients", "both"] * 2, "effects", "skin", "complaint", "plain"]  # of sentences, as said


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; base.corpus needs {', '.join(f'{n}.json' for n in _FILES)}") from None
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    if missing := [key for key in _FILES[name].split() if key not in value]:
        raise UserError(f"{path}: {missing[0]!r} is missing; add it")
    return dict(value)


class Corpus:
    """The documents of one folder. Methods take the generator they draw from, so that a seed is a document."""

    def __init__(self, folder: str | Path) -> None:
        texts = {name: _read(Path(folder), name) for name in _FILES}
        self.w, self.p, self.sentences = texts["words"], texts["prompts"], texts["sentences"]
        self.formats, self.groups, w = texts["formats"], texts["word_groups"], self.w
        self.held_out: list[str] = w["held_out"]
        names = [*w["ingredient_parts"], *w["effect_parts"], *w["categories"]]
        labels, domains = [*w["labels"], *self.formats], [words for d in w["domains"].values() for words in d.values()]
        lists = [
            names,
            labels,
            w["ingredients"],
            w["effects"],
            w["skin_types"],
            w["complaints"],
            w["audiences"],
            w["common"],
            w["domains"],
            *domains,
        ]
        self.words = list(dict.fromkeys(word for words in lists for word in words if len(word) > 1))
        counts = Counter(c for c in json.dumps(texts, ensure_ascii=False) if not c.isascii())
        self.characters = sorted(counts, key=lambda c: (-counts[c], c))  # by falling frequency
        # Single characters and anything else fill most pools: a name of characters never seen so must be copied too.
        self.pools = [
            w["ingredients"],
            names,
            w["effects"],
            w["categories"],
            labels,
            [*names, *w["characters"]],
            *[[*w["characters"]]] * 3,
            *[[*self.words, *self.characters]] * 4,
        ]

    def made_up(self, rng: random.Random) -> str:
        return "".join(rng.choices(self.w["name_characters"], k=rng.choice([2, 2, 3, 4])))

    def name(self, rng: random.Random) -> str:
        """A product name: in the shape of a real one, a jumble of its pieces, or of characters never seen so."""
        kind, keys = rng.random(), ["ingredient_parts", "effect_parts", "categories"]
        if kind < 0.85:
            keys = keys if kind < 0.65 else rng.choices(keys, k=rng.choice([2, 3, 4]))
            return "".join(rng.choice(self.w[key]) for key in keys)
        return self.made_up(rng) + str(rng.choice(self.w["categories"]))

    def sheet(self, rng: random.Random) -> Sheet:
        """Draw the facts of one document, independently but for the complaint, so that none can be learnt by heart."""
        w, name = self.w, self.name(rng)
        if rng.random() < 0.8:
            ingredients = rng.sample(w["ingredients"], rng.choice([2, 2, 3, 3, 4]))
            effects = rng.sample(w["effects"], rng.choice([2, 2, 3]))
            readers = rng.sample(w["skin_types"], rng.choice([1, 1, 1, 2]))
            complaint = w["complaints"][w["effects"].index(effects[0])]
        else:  # of another domain: a sheet is a sheet, whatever it speaks of
            thing = rng.choice(list(w["domains"]))
            words = w["domains"][thing]
            name, complaint, readers = self.made_up(rng) + thing, w["trouble"], [rng.choice(w["audiences"])]
            ingredients, effects = (rng.sample(words[key], rng.choice([2, 3])) for key in ("ingredients", "effects"))
        join = self.p["separator"].join
        return {
            "name": name,
            "first": ingredients[0],
            "second": ingredients[1],
            "last": ingredients[-1],
            "effect": effects[0],
            "other_effect": effects[1],
            "reader": readers[0],
            "complaint": complaint,
            "ingredients": join(ingredients),
            "effects": join(effects),
            "skin": join(readers),
        }

    def lines(self, rng: random.Random, sheet: Sheet, extra: bool = True) -> list[tuple[str, str]]:
        """Keys and values of a sheet. A label may stand there as a value, where it asks for nothing."""
        values = [sheet[key] for key in ("name", "ingredients", "effects", "skin")]
        lines = list(zip(rng.choice(self.p["keys"]), values, strict=True))
        if extra and rng.random() < 0.4:
            # The labels of the recipe are half of them: tuning does not touch embeddings, so these must be ready.
            value = rng.choice(rng.choice([self.w["labels"], list(self.formats)]))
            lines.append((rng.choice(self.p["label_keys"]), value))
        if extra and rng.random() < 0.15:
            lines.append((rng.choice(self.p["extra_keys"]), self.made_up(rng)))
        return rng.sample(lines, len(lines)) if rng.random() < 0.25 else lines

    def text(self, lines: list[tuple[str, str]]) -> str:
        return "\n".join(f"{key}{self.p['colon']}{value}" for key, value in lines)

    def chat(self, rng: random.Random, *turns: tuple[str, str]) -> Document:
        """Questions and answers as ChatML, in one of four documents under a system message."""
        system = rng.choice(self.p["systems"]).format(maker=self.made_up(rng))
        parts = [(f"{START}system\n{system}{END}\n", GIVEN)] if rng.random() < 0.25 else []
        for question, answer in turns:
            question = f"{START}user\n{question}{END}\n{START}assistant\n"
            parts += [(question, GIVEN), (answer + END, ANSWER), ("\n", GIVEN)]
        return parts

    def row(self, rng: random.Random, n: int) -> str:
        return str(rng.choice(["", self.p["separator"]]).join(rng.choices(rng.choice(self.pools), k=n)))

    def dense(self, rng: random.Random) -> Document:
        """A drill: a row of random words, repeated, which teaches heads to copy in the fewest steps."""
        n = rng.choice([4, 6, 8, 12, 16])
        row = self.row(rng, n) + self.p["stop"]
        return [(row, GIVEN), (row * rng.choice([2, 3, 4] if n > 8 else [4, 6, 8]), ANSWER)]

    def copy(self, rng: random.Random) -> Document:
        names = [self.name(rng) for _ in range(rng.choice([1, 2, 3]))]
        row = self.p["separator"].join(names) if rng.random() < 0.25 else self.row(rng, rng.choice([3, 4, 5, 6, 8]))
        return self.chat(rng, (rng.choice(self.p["copy"]).format(words=row), row))

    def questions(self, rng: random.Random) -> Document:
        """Two to four questions in turn about one sheet, each answered by one of its values."""
        sheet, turns = self.sheet(rng), []
        lines = self.lines(rng, sheet)
        for key, value in rng.sample(lines, rng.choice([2, 3, 4])):
            question, answer = rng.choice(list(self.p["ask_one"].items()))
            if rng.random() < 0.55:
                question, answer = rng.choice(self.p["ask_value"]), rng.choice(self.p["answer_value"])
            turns.append((question.format(key=key), answer.format(key=key, value=value, **sheet)))
        turns[0] = (f"{self.text(lines)}\n{turns[0][0]}", turns[0][1])
        return self.chat(rng, *turns)

    def ordered(self, rng: random.Random) -> Document:
        """Some values of a sheet, in the order that is asked for."""
        sheet, wanted = self.sheet(rng), rng.sample(list(self.p["ordered"]), rng.choice([2, 3, 4]))
        slots = {"sheet": self.text(self.lines(rng, sheet)), "fields": self.p["separator"].join(wanted)}
        answer = "".join(self.p["ordered"][key] for key in wanted).format(**sheet)
        return self.chat(rng, (rng.choice(self.p["ask_ordered"]).format(**slots), answer))

    def said(self, rng: random.Random, sheet: Sheet, n: int) -> str:
        """`n` sentences about a sheet, from groups in random order."""
        return "".join(rng.choice(self.sentences[group]) for group in rng.sample(_GROUPS, n)).format(**sheet)

    def describe(self, rng: random.Random, sheet: Sheet, answer: str) -> Document:
        ask, text = rng.choice(self.p["describe"]), self.text(self.lines(rng, sheet))
        return self.chat(rng, (ask.format(sheet=text), answer))

    def restate(self, rng: random.Random) -> Document:
        """Sentences about a sheet; one time in six with no sheet in sight, as plain text."""
        sheet = self.sheet(rng)
        said = self.said(rng, sheet, rng.choice([3, 4, 5]))
        return [(said + STOP, ANSWER / 2)] if rng.random() < 0.17 else self.describe(rng, sheet, said)

    def word_groups(self, rng: random.Random) -> Document:
        """Word groups of the domain in random order: words to know, never the order in which a form has them."""
        sheet, pieces = self.sheet(rng), []
        for _ in range(rng.choice([2, 3, 4])):
            loose = self.p["comma"].join(rng.sample(self.groups["groups"], rng.choice([1, 2, 2, 3])))
            whole = rng.choice(self.groups["sentences"]).format(**sheet)
            kinds = [whole, loose + rng.choice(self.p["ends"]), self.said(rng, sheet, 1)]
            pieces += rng.choices(kinds, [9, 8, 3])
        return self.describe(rng, sheet, "".join(pieces))

    def written(self, rng: random.Random, label: str, sheet: Sheet) -> str:
        """The text of a form: its opener, a sentence for each step of its order, its closer."""
        form = self.formats[label]
        label_rng = random.Random(label)  # the same draws for every document of the label
        pieces = []
        for step in form["order"]:
            # Two sentences of a group belong to this label for good; which of them comes is a draw.
            pieces.append(rng.choice(label_rng.sample(self.sentences[step], 2) if step in self.sentences else [step]))
        return "".join([form["open"], *pieces, form["close"]]).format(**sheet)

    def format(self, rng: random.Random) -> Document:
        """The form that a label asks for, early in the question, late, or both."""
        label, sheet = rng.choice(list(self.formats)), self.sheet(rng)
        text = self.text(self.lines(rng, sheet, extra=False))
        question = f"{rng.choice(self.p['ask_format'])}\n{text}{rng.choice(self.p['tail_format'])}".format(label=label)
        return self.chat(rng, (question, self.written(rng, label, sheet)))

    def document(self, rng: random.Random, dense: float) -> Document:
        """One fresh document, a dense drill with probability `dense`. It never holds a held-out name."""
        mix = self.p["mix"]
        while True:
            kind = rng.choices(list(mix), list(mix.values()))[0] if rng.random() >= dense else "dense"
            parts: Document = getattr(self, kind)(rng)
            if not any(name in piece for piece, _ in parts for name in self.held_out):
                return parts
