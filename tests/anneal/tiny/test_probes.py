"""probes: what counts as a good reply, and how it is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from anneal.tiny import architecture, probes
from anneal.tiny.probes import Case
from anneal.tiny.sheet_corpus import Corpus
from tests.anneal.tiny.test_architecture import FOLDER, micro


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(FOLDER)


def test_a_case_wants_its_words_its_opener_and_nothing_foreign() -> None:
    case = Case("?", ["甘草面膜"], opener="记：", unwanted=("甘草", "面霜"))
    assert case.met("记：甘草面膜到了。")
    assert not case.met("甘草面膜到了。")
    assert not case.met("记：甘草到了。")
    assert not case.met("记：甘草面膜和面霜。")
    assert not case.met("记：甘草面膜，含甘草。")


def test_a_word_that_is_wanted_twice_has_to_come_twice() -> None:
    twice = Case("?", ["甲。甲"])
    assert twice.met("甲。甲。")
    assert not twice.met("甲。")


def test_every_probe_has_its_cases_and_the_right_answer_meets_them(corpus: Corpus) -> None:
    found = probes.cases(corpus, "test", 40)
    assert set(found) == {"name", "ingredients", "skin", "ordered", "form", "form, name", "form, facts", "characters"}
    checked = 0
    for name, asked in found.items():
        assert len(asked) == 40, name
        for case in asked:
            assert case.met(case.opener + "".join(case.wanted))
            assert not case.met("") or not (case.wanted or case.opener)
            if name not in ("form", "ordered"):
                assert all(word in case.question for word in case.wanted), "an answer stands in its question"
            checked += 1
    assert checked == 320


def test_a_foreign_fact_fails_a_form(corpus: Corpus) -> None:
    failed = 0
    for case in probes.cases(corpus, "test", 20)["form, facts"]:
        assert len(case.unwanted) > 50
        failed += not case.met(case.opener + "".join(case.wanted) + case.unwanted[0])
    assert failed == 20


def test_replies_are_the_same_alone_and_beside_a_longer_question(corpus: Corpus) -> None:
    tokens = architecture.tokenizer(corpus.words, corpus.characters, micro().vocab_size)
    model = architecture.build(micro(), tokens).eval()
    questions = ["请重复：山水", "请介绍。\n" + "很长的资料。" * 20, "叫什么？"]
    together = probes.replies(model, tokens, questions, 8)
    alone = [probes.replies(model, tokens, [question], 8)[0] for question in questions]
    assert len(together) == 3
    assert together == alone


def test_an_untrained_model_scores_nothing_and_an_oracle_everything(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = architecture.tokenizer(corpus.words, corpus.characters, micro().vocab_size)
    model = architecture.build(micro(), tokens).eval()
    untrained = probes.scores(model, tokens, corpus, "test", 1)
    assert set(untrained.values()) == {0.0}
    answers = {c.question: c for asked in probes.cases(corpus, "test", 3).values() for c in asked}

    def oracle(_model: Any, _tokens: Any, questions: list[str], _longest: int) -> list[str]:
        # The three probes of a form share a question; the fullest answer serves them all.
        return [answers[q].opener + "".join(answers[q].wanted) for q in questions]

    monkeypatch.setattr(probes, "replies", oracle)
    assert set(probes.scores(model, tokens, corpus, "test", 3).values()) == {1.0}
