"""grammar: templates expand as written, documents weigh as they should, and a broken file is refused with its place."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.tiny.documents import ANSWER, GIVEN
from anneal.tiny.grammar_corpus import Grammar

RULES = {
    "word": ["sun", "moon", "star"],
    "digit": list("0123456789"),
    "pair": ["{k=word}={v=digit}"],
    "json": ['{{"{word}": {digit}}}'],
}
COPY = {"weight": 3, "turns": ["say {x=word*2-4|, }", "{x}"], "probe": True}


def write(folder: Path, **changes: Any) -> Path:
    value = {"tokens": ["sun", "moon", "a"], "rules": RULES, "documents": {"copy": COPY}} | changes
    (folder / "grammar.json").write_text(json.dumps(value))
    return folder


def texts(grammar: Grammar, n: int = 200, dense: float = 0.0) -> list[str]:
    return ["".join(text for text, _ in grammar.document(random.Random(i), dense)) for i in range(n)]


def test_what_is_bound_is_told_again(tmp_path: Path) -> None:
    found = texts(Grammar(write(tmp_path)))
    asked = [re.search(r"say (.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)<\|im_end\|>", text) for text in found]
    assert all(match and match[1] == match[2] for match in asked)
    assert {match[1].count(",") for match in asked if match} == {1, 2, 3}


def test_braces_silent_bindings_and_prose(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("One {x} here.\nStill one.\n\n\nTwo.\n")
    kinds = {
        "quiet": {"weight": 1, "turns": ["{!x=word}what?", "{x}"]},
        "json": {"weight": 1, "turns": ["now", "{json}"]},
        "text": {"weight": 1, "text": "{prose}"},
        "exact": {"weight": 1, "turns": ["four", "{digit*4|}"], "system": "be {word}"},
    }
    grammar = Grammar(write(tmp_path, documents=kinds))
    found = texts(grammar, 400)
    assert sum("One {x} here.\nStill one.<|endoftext|>" in text for text in found) > 20
    assert sum(bool(re.search(r'assistant\n\{"(sun|moon|star)": \d\}<', text)) for text in found) > 50
    assert (
        sum(bool(re.search(r"user\nwhat\?<\|im_end\|>\n<\|im_start\|>assistant\n(sun|moon|star)<", t)) for t in found)
        > 50
    )
    assert sum(bool(re.match(r"<\|im_start\|>system\nbe (sun|moon|star)<", t)) and "\n" in t for t in found) > 50
    assert all(re.search(r"assistant\n\d{4}<", t) for t in found if "four" in t)


def test_weights_of_the_parts(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("One.\n\nTwo.")
    grammar = Grammar(write(tmp_path, documents={"copy": COPY, "text": {"weight": 1, "text": "{prose}"}}))
    documents = [grammar.document(random.Random(i), 0.0) for i in range(300)]
    shares = [len(parts) for parts in documents]
    assert {tuple(weight for _, weight in parts) for parts in documents} == {(GIVEN, ANSWER, GIVEN), (ANSWER / 2,)}
    assert 0.68 < sum(n == 3 for n in shares) / 300 < 0.82  # 3 of 4 by weight


def test_dense_drills_repeat_a_row(tmp_path: Path) -> None:
    grammar = Grammar(write(tmp_path))
    for i in range(50):
        (row, given), (again, answer) = grammar.document(random.Random(i), 1.0)
        assert (given, answer) == (GIVEN, ANSWER)
        assert again == row * (len(again) // len(row))


def test_tokens_characters_and_held_out(tmp_path: Path) -> None:
    words = ["月", "月", "日"]
    grammar = Grammar(write(tmp_path, rules=RULES | {"sign": words}, held_out=["sun"]))
    assert grammar.words == ["sun", "moon"]
    assert grammar.characters == ["月", "日"]
    assert not any("sun" in text for text in texts(grammar))


def test_probes_are_drawn_apart_and_the_same_again(tmp_path: Path) -> None:
    grammar = Grammar(write(tmp_path, documents={"copy": COPY, "other": {"weight": 1, "turns": ["a", "b"]}}))
    found = grammar.questions("probe", 20)
    assert list(found) == ["copy"]
    assert all(question == f"say {answer}" for question, answer in found["copy"])
    assert found == grammar.questions("probe", 20)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rules": RULES | {"bad": ["{nothing}"]}}, "nothing"),
        ({"rules": RULES | {"bad": ["a { b"]}}, "brace"),
        ({"rules": RULES | {"bad": ["{a b}"]}}, "no slot"),
        ({"rules": RULES | {"bad": []}}, "no alternative"),
        ({"documents": {"x": {"weight": 1}}}, "give it a text"),
        ({"documents": {"x": {"weight": 1, "turns": ["one"]}}}, "in turn"),
        ({"documents": {"x": {"weight": "much", "text": "a"}}}, "documents.x.weight"),
    ],
)
def test_a_broken_grammar_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape("grammar.json")) as err:
        Grammar(write(tmp_path, **changes))
    assert says in str(err.value)
    assert "\n" not in str(err.value)


def test_a_rule_that_circles_is_refused(tmp_path: Path) -> None:
    grammar = Grammar(write(tmp_path, rules={"a": ["{a}"]}, documents={"x": {"weight": 1, "text": "{a}"}}))
    with pytest.raises(UserError, match="itself"):
        grammar.document(random.Random(0), 0.0)
