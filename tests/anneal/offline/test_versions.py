"""The VERSION of every offline persona covers its answers: a fixed set of requests gives the pinned answers.

A cached response is found by the request and the persona's VERSION. An edit that changes an answer under the same
VERSION would therefore leave stale responses in every cache, which nothing else notices.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anneal import prompts
from anneal.judging import rubric
from anneal.judging.pairwise import Pairs
from anneal.llm import offline_server
from anneal.llm.offline_server import Reply, Respond
from anneal.offline import pair_judge, phrase_teacher, rewrite, rule_judge, stub_judges, style_teacher
from anneal.prompts import Prompt
from tests import goldens
from tests.conftest import ROOT

Body = dict[str, Any]
Exchange = tuple[Respond, Body]  # a persona and a request to it

# Raise the VERSION in the module by hand, then pin the hash that the failing test prints.
PINNED = {
    "pair_judge": ("1.1", "ec4e5916ac6c6359c06646b1b6187ed0112d3bb07344db423c8a9e1e0efa795d"),
    "phrase_teacher": ("1.1", "3900a324347104e9b6a0cbbfae8bca86ce1572fde912e06544df0fd34ba2d259"),
    "rewrite": ("1", "867f429b2c9839b3ca26806c0e04df273e755ef1ba44847a59b3524eade8cdeb"),
    "rule_judge": ("1", "3387641a7e0d2aa6772ee8d8c2ed377848043386644215aeda3cb3a7d6169fff"),
    "stub_judges": (1, "fce795500e81fa81e36b4501f4536d1d8dd3a4b91126362c647aa6facdbb7b05"),
    "style_teacher": ("1", "b45e8af75084193b6dc964a49e1ab1369727881873fb636b47a956d6e715830c"),
}
N_REQUESTS = {
    "pair_judge": 180,
    "phrase_teacher": 324,
    "rewrite": 108,
    "rule_judge": 90,
    "stub_judges": 135,
    "style_teacher": 36,
}

ROWS = goldens.records(0, 4)
RUBRICS = rubric.folder(ROOT / "prompts/brand/judge", goldens.RULES)
PAIR_PROMPT = Prompt(ROOT / "prompts/brand/prefer/pair.md")
TIE = 0.05  # points, as in params/brand.yaml
UNSOUND = "堪称护肤神器，含泛醇37%。家人们放心。"  # breaks rules of most types


def teacher_request(path: str, row: Body, **settings: Any) -> Body:
    """A request with the brand recipe's prompt at `path`, filled from a record."""
    changes = f"{row['facts']['ingredients'][0]['name']} -> 珍珠粉"
    slots = {"label": goldens.TYPES[row["type"]], "text": goldens.text(row), "reason": "", "changes": changes}
    messages = Prompt(ROOT / f"prompts/brand/{path}.md").messages(**prompts.slots(row["facts"]), **slots)
    return {"model": "offline-1", "messages": messages, "max_tokens": 700, "temperature": 1.0, **settings}


def text_request(row: Body, text: str) -> Body:
    """A request to score one text."""
    label = goldens.TYPES[row["type"]]
    messages = RUBRICS[row["type"]].messages(row["type"], label, row["facts"], goldens.KNOWN, text)
    return {"model": "m", "messages": messages}


def pair_request(row: Body, first: str, second: str) -> Body:
    """A request to compare two texts."""
    pairs = Pairs(RUBRICS[row["type"]], PAIR_PROMPT, TIE)
    shown = pairs.shown(row["type"], goldens.TYPES[row["type"]], row["facts"], goldens.KNOWN)
    return {"model": "m", "messages": pairs.messages(shown, first, second)}


def candidates(row: Body) -> list[str]:
    """Texts of falling quality for one record."""
    text = goldens.text(row)
    return [text, text + UNSOUND, text[: len(text) // 2], goldens.vague(row), ""]


def phrase_exchanges() -> Iterator[Exchange]:
    teacher = phrase_teacher.teacher(goldens.BRAND / "offline")  # with its planted faults
    steps = sorted(path.stem for path in (ROOT / "prompts/brand/clean").glob("*.md"))
    for row in ROWS:
        for seed in range(6):
            yield teacher, teacher_request(f"generate/{row['type']}", row, seed=seed)
        for step in steps:
            yield teacher, teacher_request(f"clean/{step}", row)


def rewrite_exchanges() -> Iterator[Exchange]:
    """The tasks of the phrase teacher that rewrite a text."""
    for row, kind in itertools.product(ROWS, ("exaggerated", "fake", "weak")):
        yield goldens.teacher(), teacher_request(f"reject/{kind}", row)


def style_exchanges() -> Iterator[Exchange]:
    """Golden texts and an essay of each author, in plain words and as a summary."""
    raw = ROOT / "data/raw/author"
    teacher = style_teacher.respond(raw / "offline")
    essays = [path.read_text("utf-8") for path in sorted(raw.glob("essays/*/*.md"))[::4]]
    for text in [*map(goldens.text, ROWS[:9]), *essays]:
        for task in ("改写成平实的话。", "概括下面的文字。"):
            content = f"{task}\n<text>\n{text}\n</text>"
            yield teacher, {"model": "m", "messages": [{"role": "user", "content": content}]}


def rule_exchanges() -> Iterator[Exchange]:
    for row in ROWS[:18]:
        for text in candidates(row):
            yield rule_judge.respond, text_request(row, text)


def pair_exchanges() -> Iterator[Exchange]:
    for row in ROWS[:9]:
        for first, second in itertools.permutations(candidates(row), 2):
            yield pair_judge.respond, pair_request(row, first, second)


def stub_exchanges() -> Iterator[Exchange]:
    for _, judge in sorted(stub_judges.JUDGES.items()):
        for row in ROWS[:9]:
            first, second, *_ = candidates(row)
            yield judge, text_request(row, first)
            yield judge, text_request(row, goldens.vague(row))
            yield judge, pair_request(row, first, second)


PERSONAS: dict[str, tuple[Any, Callable[[], Iterator[Exchange]]]] = {
    "pair_judge": (pair_judge.VERSION, pair_exchanges),
    "phrase_teacher": (phrase_teacher.VERSION, phrase_exchanges),
    "rewrite": (rewrite.VERSION, rewrite_exchanges),
    "rule_judge": (rule_judge.VERSION, rule_exchanges),
    "stub_judges": (offline_server.VERSION, stub_exchanges),  # they have none of their own
    "style_teacher": (style_teacher.VERSION, style_exchanges),
}


def answer(respond: Respond, body: Body) -> list[str]:
    """Text and finish reason; a refusal, which the server sends as HTTP 400, has no text of its own here."""
    try:
        reply: Reply = respond(body)
    except ValueError:
        return ["", "400"]
    return [reply.text, reply.finish]


@pytest.mark.parametrize("persona", sorted(PINNED))
def test_answers_change_only_with_the_version(persona: str) -> None:
    version, exchanges = PERSONAS[persona]
    answers = [answer(respond, body) for respond, body in exchanges()]
    assert len(answers) == N_REQUESTS[persona]
    assert sum(finish == "400" for _, finish in answers) == 0
    digest = hashlib.sha256(json.dumps(answers).encode()).hexdigest()
    module = "anneal/llm/offline_server.py" if persona == "stub_judges" else f"anneal/offline/{persona}.py"
    assert (version, digest) == PINNED[persona], (
        f"the answers changed: raise VERSION in {module} and pin the new hash {digest}; "
        "if only the material under data/raw or prompts changed, pin the new hash alone"
    )


def test_every_persona_is_pinned() -> None:
    modules = {path.stem for path in (ROOT / "anneal/offline").glob("*.py")} - {"__init__"}
    assert modules == set(PINNED) == set(PERSONAS) == set(N_REQUESTS)
