"""Answers from a chat server: which replies count, and what a request holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anneal.decoding import generate, served
from anneal.llm import request, response

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "temperature": 0.7,
    "top_k": 9,
    "top_p": 0.8,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "max_new_tokens": 12,
    "stop": [],
}


def body(content: Any, finish: Any = "stop") -> str:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def question(seed: int = 5, **changes: Any) -> served.Question:
    call = request.Call("a", [{"role": "user", "content": "x"}])
    chat = request.Chat(model="m", temperature=0.0, top_p=1.0, max_tokens=1, max_failed=0.0)
    return served.Question(call, chat, "url weights a", settings=generate.Decode(**(GREEDY | changes)), seed=seed)


def test_a_reply_becomes_an_answer_unchanged() -> None:
    found = [
        (body("yes"), "yes", "stop"),
        (body("ye", "length"), "ye", "length"),
        (body("ye", "max_tokens"), "ye", "length"),
        (body(""), "", "stop"),
        (body(None), "", "stop"),
        (body("one|two|three"), "one", "stop"),
    ]
    for raw, text, finish in found:
        assert served.continuation(raw, ["|"]) == generate.Continuation(text, finish, 7, 3, [])  # type: ignore[arg-type]
    assert len(found) == 6


@pytest.mark.parametrize("raw", ["", "{}", '{"choices": []}', "[1]", body(5), '{"choices": [{"message": null}]}'])
def test_a_broken_reply_is_sent_again(raw: str) -> None:
    with pytest.raises(response.Unusable, match="broken reply") as err:
        served.continuation(raw, [])
    assert err.value.kind == "http"


@pytest.mark.parametrize("finish", ["content_filter", None, "tool_calls"])
def test_a_filtered_reply_is_no_answer(finish: Any) -> None:
    with pytest.raises(response.Unusable, match="finish_reason") as err:
        served.continuation(body("x", finish), [])
    assert err.value.kind == "content_filter"


def test_a_request_holds_the_decoding_settings_and_nothing_else() -> None:
    plain = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 12, "temperature": 0.0}
    assert question().body() == plain
    assert question(stop=["|"], repetition_penalty=1.2).body() == {
        **plain,
        "stop": ["|"],
        "extra_body": {"repetition_penalty": 1.2},
    }
    drawn = {**plain, "temperature": 0.7, "top_p": 0.8, "seed": 5}
    assert question(do_sample=True).body() == {**drawn, "extra_body": {"top_k": 9}}
    assert question(do_sample=True, top_k=0).body() == drawn


def test_another_request_is_another_key() -> None:
    same = question().key()
    assert question(seed=6).key() == same, "greedy search draws nothing"
    others = {question(**change).key() for change in ({"max_new_tokens": 13}, {"do_sample": True}, {"stop": ["|"]})}
    assert len({*others, question(seed=6, do_sample=True).key(), same}) == 5
