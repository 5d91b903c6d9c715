"""Answers of a system under test from a chat completions server (vLLM, for instance), cached as all other replies.

A reply is data here, whatever its text: cut short, empty or a refusal, it is the answer of the system under test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anneal.decoding.generate import Continuation, Decode
from anneal.errors import UserError
from anneal.files import work
from anneal.llm import client, endpoint, offline_server, request, response
from anneal.llm.response_cache import ResponseCache
from anneal.llm.scheduler import Scheduler
from anneal.records import Record

# Finish reasons that leave an answer; of any other, such as a content filter, there is none.
_ENDS: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length", "max_tokens": "length"}


def continuation(body: str, stop: Sequence[str]) -> Continuation:
    """The answer in a reply, with the token counts of the server. Raises response.Unusable."""
    try:
        choice = json.loads(body)["choices"][0]
        text = choice["message"].get("content") or ""
        finish = _ENDS.get(choice["finish_reason"])
        if not isinstance(text, str):
            raise TypeError(text)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise response.Unusable("http", f"broken reply: {body[:200]!r}") from None
    if finish is None:
        raise response.Unusable("content_filter", f"finish_reason {choice['finish_reason']}")
    cuts = [text.index(word) for word in stop if word in text]  # some servers leave the stop string in
    n_prompt, n_new = response.tokens(body)
    return Continuation(text[: min(cuts, default=len(text))], finish, n_prompt, n_new, [])


@dataclass(kw_only=True)
class Question(request.Pending):
    """A call whose request holds the decoding settings, and whose answer is a Continuation."""

    settings: Decode
    seed: int

    def body(self) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {
            "model": self.chat.model,
            "messages": self.call.messages,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature if settings.do_sample else 0.0,
        }
        if settings.stop:
            body["stop"] = settings.stop
        # Not in OpenAI's own interface but in vLLM's and SGLang's, so sent only where set.
        extra: dict[str, float] = {}
        if settings.do_sample:
            body |= {"top_p": settings.top_p, "seed": self.seed}
            if settings.top_k:
                extra["top_k"] = settings.top_k
        if settings.repetition_penalty != 1:
            extra["repetition_penalty"] = settings.repetition_penalty
        if extra:
            body["extra_body"] = extra
        return body

    def take(self, body: str, _check: Any, status: Literal["ok", "cached"]) -> None:
        answer = continuation(body, self.settings.stop)
        self.answer = request.Answer(
            self.call.id, status, "", answer.text, answer, self.errors, answer.n_prompt, answer.n_new
        )


def _no_provider(_body: dict[str, Any]) -> offline_server.Reply:
    raise ValueError("no offline provider answers for a model")


def _continuation(question: Question) -> Continuation:
    if question.answer is None or question.answer.status == "failed":
        reason = question.errors[-1] if question.errors else "no reply"
        raise UserError(
            f"data/test.jsonl: {question.call.id}: the server gave no answer: {reason}; run again to send it again"
        )
    value: Continuation = question.answer.value
    return value


def answer(questions: list[Question], target: endpoint.Endpoint) -> list[Continuation]:
    """One answer to each question, in order, from the cache or the server.

    Raises UserError for a question without an answer: a system is measured on all records or not at all.
    """
    # The cache of all stages; the identity of a question keeps its replies apart from those of other systems.
    with contextlib.closing(ResponseCache(work("llm") / "ledger.sqlite")) as cache:
        missing = client.look_up([*questions], cache, request.accept)
        if missing and os.environ.get("ANNEAL_DRY_RUN", "0") not in ("", "0"):
            count = f"{len(missing)} of {len(questions)}"
            raise UserError(f"dry run: would send {count} answer requests of the first batch")
        if missing:
            with endpoint.opened(target, _no_provider) as reachable:
                scheduler = Scheduler(reachable, cache, request.accept)
                asyncio.run(scheduler.run(missing))
            if scheduler.reason is not None:
                raise scheduler.reason
    return [_continuation(question) for question in questions]


def writer(
    system: str, model: str | None, weights: str, chosen: dict[str, Decode]
) -> Callable[[list[Record], Decode, list[int]], list[Continuation]]:
    """A function that answers records with the given settings and seeds, from the server of role `answer`.

    `chosen` holds all settings that it will be called with, by their place in params: settings that the server cannot
    apply are a UserError before the first request. The server is ANSWER_BASE_URL and _API_KEY, or OPENAI_BASE_URL and
    _API_KEY. `weights` is a hash of what the server has loaded, a part of every cache key: the same model name after
    another training is another system.
    """
    if not model:
        raise UserError(
            f"params.yaml: answer.model.{system}: empty; name what the server calls it, or use another engine"
        )
    for place, settings in chosen.items():
        for key, neutral in (("num_beams", 1), ("no_repeat_ngram_size", 0)):
            if (value := getattr(settings, key)) != neutral:
                raise UserError(
                    f"params.yaml: answer.{place}.{key}: {value}, which engine: openai cannot do; set {neutral}"
                )
    target = endpoint.resolve("answer", "", _no_provider, None)
    # A Question takes its request from its settings; of the Chat only the model is sent.
    chat = request.Chat(model=model, temperature=0.0, top_p=1.0, max_tokens=1, max_failed=0.0)

    def write(records: list[Record], settings: Decode, seeds: list[int]) -> list[Continuation]:
        questions = []
        for record, seed in zip(records, seeds, strict=True):
            call = request.Call(record["id"], record["prompt"])
            identity = f"{target.identity} {weights} {record['id']}"
            questions.append(Question(call, chat, identity, settings=settings, seed=seed))
        return answer(questions, target)

    return write
