"""Probes measure, on sheets that a base model has never seen, the abilities that tuning builds on.

A probe is a set of questions; its score is the share of greedy replies that hold the requested words exactly. Probes
measure copying and following instructions, not the quality of writing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from anneal.tiny.documents import END, START, Source
from anneal.tiny.grammar_corpus import Grammar
from anneal.tiny.sheet_corpus import Corpus

MAX_NEW_TOKENS = 96  # of a reply to a probe


@dataclass(frozen=True)
class Case:
    """A question; a good reply starts with `opener`, holds every wanted string and then none of the unwanted ones."""

    question: str
    wanted: list[str]
    opener: str = ""
    unwanted: tuple[str, ...] = ()
    exact: bool = False  # nothing but the one wanted string

    def met(self, reply: str) -> bool:
        if self.exact:
            return reply.strip() == self.wanted[0].strip()
        # Wanted words are struck out, the longest first: a piece of one does not count as unwanted.
        remainder = reply
        for word in sorted(self.wanted, key=len, reverse=True):
            if word not in remainder:
                return False
            remainder = remainder.replace(word, "\n")
        return reply.startswith(self.opener) and not any(word in remainder for word in self.unwanted)


def cases(corpus: Source, seed: str, n: int) -> dict[str, list[Case]]:
    """`n` questions of every probe; in a grammar the document kinds with `probe` are the probes."""
    if isinstance(corpus, Grammar):
        questions = corpus.questions(seed, n)
        return {name: [Case(q, [answer], exact=True) for q, answer in turns] for name, turns in questions.items()}
    assert isinstance(corpus, Corpus)
    return _sheets(corpus, seed, n)


def _sheets(corpus: Corpus, seed: str, n: int) -> dict[str, list[Case]]:
    probes: dict[str, list[Case]] = {}
    p, separator = corpus.p, corpus.p["separator"]
    for number in range(n):
        rng = random.Random(f"{seed}/{number}")
        sheet = corpus.sheet(rng)
        lines = corpus.lines(rng, sheet, extra=False)
        text, key = corpus.text(lines), {value: key for key, value in lines}
        facts = {word for name in ("ingredients", "effects", "skin") for word in sheet[name].split(separator)}
        foreign = [word for name in ("ingredients", "effects", "skin_types") for word in corpus.w[name]]
        label, wanted = rng.choice(list(corpus.formats)), rng.sample(list(p["ordered"]), 3)
        form = f"{p['ask_format'][0]}\n{text}{p['tail_format'][0]}".format(label=label)
        opener = corpus.formats[label]["open"].format(**sheet)
        ordered = p["ask_ordered"][0].format(sheet=text, fields=separator.join(wanted))
        letters = "".join(rng.choices(corpus.w["characters"], k=6))
        new = {
            name: Case(f"{text}\n{p['ask_value'][0]}".format(key=key[sheet[name]]), [sheet[name]])
            for name in ("name", "ingredients", "skin")
        }
        new["ordered"] = Case(ordered, ["".join(p["ordered"][k] for k in wanted).format(**sheet)])
        new["form"] = Case(form, [], opener)
        new["form, name"] = Case(form, [sheet["name"]])
        # Own words are struck out first: the word for a piece of an own name is not foreign.
        new["form, facts"] = Case(form, [sheet["name"]], opener, tuple(w for w in foreign if w not in facts))
        new["characters"] = Case(p["copy"][0].format(words=letters), [letters])
        for name, case in new.items():
            probes.setdefault(name, []).append(case)
    return probes


def replies(model: Any, tokens: Any, questions: list[str], longest: int, batch: int = 60) -> list[str]:
    """Greedy answers; the tokenizer pads at the left."""
    import torch

    texts = [f"{START}user\n{question}{END}\n{START}assistant\n" for question in questions]
    responses: list[str] = []
    for start in range(0, len(texts), batch):
        inputs = tokens(texts[start : start + batch], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1] :]
        responses += tokens.batch_decode(new, skip_special_tokens=True)
    return responses


def scores(model: Any, tokens: Any, corpus: Source, seed: str, n: int = 60) -> dict[str, float]:
    """The share of good replies for every probe, over `n` questions each."""
    shares = {}
    for name, probe in cases(corpus, seed, n).items():
        answers = replies(model, tokens, [case.question for case in probe], MAX_NEW_TOKENS)
        shares[name] = sum(case.met(answer) for case, answer in zip(probe, answers, strict=True)) / n
    return shares
