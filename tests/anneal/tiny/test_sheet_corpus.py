"""corpus: what the shipped folder's documents hold, and what they must never hold."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import pytest

from anneal.errors import UserError
from anneal.tiny.documents import ANSWER, END, GIVEN, START, STOP, Document
from anneal.tiny.sheet_corpus import Corpus
from tests.conftest import ROOT

FOLDER = ROOT / "data/raw/brand/base"
# What marks each form of the recipe: its first words and what must follow them.
FORMS = [
    "使用前：.*使用后：",
    "特点：.*优势：",
    "还在.*吗？.*点击",
    "误区：.*真相：",
    "【产品】.*【用法】",
    "科普：",
    "^实测",
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(FOLDER)


def drawn(corpus: Corpus, n: int, dense: float = 0.03, seed: str = "test") -> list[Document]:
    return [corpus.document(random.Random(f"{seed}/{i}"), dense) for i in range(n)]


def whole(parts: Document) -> str:
    return "".join(text for text, _ in parts)


def test_no_document_holds_a_product_name_of_the_recipe(corpus: Corpus) -> None:
    names = [json.loads(line)["name"] for line in (ROOT / "data/raw/brand/products.jsonl").read_text().splitlines()]
    assert len(names) == 140
    assert set(names) <= set(corpus.w["held_out"])
    found = [name for parts in drawn(corpus, 3000) for name in names if name in whole(parts)]
    assert found == []


def test_a_held_out_name_is_drawn_again(corpus: Corpus, tmp_path: Path) -> None:
    """The net must catch: with every category word held out, only documents without one come through."""
    folder = shutil.copytree(FOLDER, tmp_path / "base")
    words = json.loads((folder / "words.json").read_text())
    words["held_out"] = words["categories"]
    (folder / "words.json").write_text(json.dumps(words))
    before = sum(any(c in whole(p) for c in words["categories"]) for p in drawn(corpus, 200))
    after = sum(any(c in whole(p) for c in words["categories"]) for p in drawn(Corpus(folder), 200))
    assert before > 100
    assert after == 0


def test_no_document_is_a_form_of_the_recipe_nor_asks_for_one(corpus: Corpus) -> None:
    answers, questions = [], []
    for parts in drawn(corpus, 3000, dense=0.0):
        answers += [text for text, weight in parts if weight == ANSWER]
        questions += [text for text, weight in parts if weight == GIVEN and START + "user" in text]
    assert len(answers) > 3000
    assert [a for a in answers for form in FORMS if re.search(form, a, re.S)] == []
    asked = [label for label in corpus.w["labels"] for q in questions if f"一篇{label}" in q or f"写成{label}" in q]
    assert asked == []


def test_the_forms_are_recognised_in_the_phrase_bank() -> None:
    """The patterns above do find the recipe's forms, so that finding none in the corpus means something."""
    found = 0
    for path in sorted((ROOT / "data/raw/brand/offline").glob("*.json")):
        for form in json.loads(path.read_text()).get("types", {}).values():
            text = form["join"].join(options[0] for options in form["sentences"]).replace("{@call}", "点击看看。")
            first = form["join"].join(options[-1] for options in form["sentences"])
            found += any(re.search(pattern, t, re.S) for pattern in FORMS for t in (text, first))
    assert found >= 7


def test_labels_are_seen_as_values_and_in_rows_to_copy(corpus: Corpus) -> None:
    texts = [whole(parts) for parts in drawn(corpus, 3000)]
    seen = {label: sum(label in text for text in texts) for label in corpus.w["labels"]}
    assert len(seen) == 9
    assert min(seen.values()) > 20, seen


def test_answers_come_from_the_sheet_above_them(corpus: Corpus) -> None:
    """Every entity word of a first answer about a sheet stands in its question: there is nothing to know by heart."""
    known = [*corpus.w["ingredients"], *corpus.w["effects"], *corpus.w["skin_types"]]
    checked = 0
    for kind in ("questions", "ordered", "restate", "word_groups", "format"):
        for number in range(150):
            parts = getattr(corpus, kind)(random.Random(f"{kind}/{number}"))
            question = "".join(text for text, weight in parts if weight == GIVEN)
            if START not in question:
                continue
            for answer in (text for text, weight in parts if weight == ANSWER):
                assert [word for word in known if word in answer and word not in question] == [], (question, answer)
                checked += 1
    assert checked > 700


def test_weights(corpus: Corpus) -> None:
    parts = corpus.questions(random.Random("weights"))
    assert {weight for text, weight in parts if text.endswith(END)} == {ANSWER}
    assert {weight for text, weight in parts if START in text} == {GIVEN}
    row, again = corpus.dense(random.Random("weights"))
    assert (row[1], again[1]) == (GIVEN, ANSWER)
    assert again[0] == row[0] * (len(again[0]) // len(row[0]))


def test_every_chat_turn_is_closed_and_some_have_a_system_message(corpus: Corpus) -> None:
    texts = [whole(parts) for parts in drawn(corpus, 600, dense=0.0)]
    assert all(text.count(START) == text.count(END) for text in texts)
    chats = [text for text in texts if START in text]
    share = sum(text.startswith(f"{START}system") for text in chats) / len(chats)
    assert len(chats) > 500
    assert 0.15 < share < 0.35
    plain = [text for text in texts if START not in text]
    assert plain
    assert all(text.endswith(STOP) for text in plain)


def test_a_seed_is_a_document(corpus: Corpus) -> None:
    assert drawn(corpus, 50) == drawn(Corpus(FOLDER), 50)
    assert drawn(corpus, 50) != drawn(corpus, 50, seed="other")


def test_every_sentence_and_form_can_be_filled(corpus: Corpus) -> None:
    rng, filled = random.Random("fill"), 0
    for _ in range(20):
        sheet = corpus.sheet(rng)
        for sentences in [*corpus.sentences.values(), corpus.groups["sentences"]]:
            for sentence in sentences:
                assert "{" not in sentence.format(**sheet)
                filled += 1
        for label in corpus.formats:
            assert "{" not in corpus.written(rng, label, sheet)
            filled += 1
    assert filled > 2000
    assert len(corpus.formats) >= 40


def test_a_missing_file_a_broken_file_and_a_missing_key_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "base")
    with pytest.raises(UserError, match=r"nowhere/words\.json: no such file"):
        Corpus(tmp_path / "nowhere")
    sentences = json.loads((folder / "sentences.json").read_text())
    del sentences["skin"]
    (folder / "sentences.json").write_text(json.dumps(sentences))
    with pytest.raises(UserError, match=r"sentences\.json: 'skin' is missing"):
        Corpus(folder)
    (folder / "sentences.json").write_text('{"name": [')
    with pytest.raises(UserError, match=r"sentences\.json:1:11: not JSON"):
        Corpus(folder)
