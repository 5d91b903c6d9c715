"""Answers from a server that speaks chat completions (vLLM, for instance), asked and kept as all other requests are.

Here a reply is data, whatever it says: cut short, empty or a refusal, it is what the system under test answers.
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
from anneal.files import Record, work
from anneal.llm import client, endpoint, offline_server, request, response
from anneal.llm.response_cache import ResponseCache
from anneal.llm.scheduler import Scheduler

_ENDS: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length", "max_tokens": "length"}


def continuation(body: str, stop: Sequence[str]) -> Continuation:
    """The answer in a reply; tokens are those that the server counts. Raises reply.Unusable for what is none."""
    try:
        choice = json.loads(body)["choices"][0]
        said, finish = choice["message"].get("content") or "", _ENDS.get(choice["finish_reason"])
        if not isinstance(said, str):
            raise TypeError(said)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise response.Unusable("http", f"broken reply: {body[:200]!r}") from None
    if finish is None:
        raise response.Unusable("content_filter", f"finish_reason {choice['finish_reason']}")
    cuts = [said.index(word) for word in stop if word in said]  # some servers leave the stop string in
    prompt, new = response.tokens(body)
    return Continuation(said[: min(cuts, default=len(said))], finish, prompt, new, [])


@dataclass(kw_only=True)
class Question(request.Row):
    """A row whose request holds the settings of the search, and whose answer is a Continuation."""

    settings: Decode
    seed: int

    def body(self) -> dict[str, Any]:
        chosen = self.settings
        body: dict[str, Any] = {"model": self.chat.model, "messages": self.call.messages}
        body |= {"max_tokens": chosen.max_new_tokens, "temperature": chosen.temperature if chosen.do_sample else 0.0}
        body |= {"stop": chosen.stop} if chosen.stop else {}
        extra: dict[str, float] = {}  # not in OpenAI's own interface, but in vLLM's and SGLang's: sent where it is set
        if chosen.do_sample:
            body |= {"top_p": chosen.top_p, "seed": self.seed}
            extra |= {"top_k": chosen.top_k} if chosen.top_k else {}
        extra |= {"repetition_penalty": chosen.repetition_penalty} if chosen.repetition_penalty != 1 else {}
        return body | ({"extra_body": extra} if extra else {})

    def take(self, body: str, _check: Any, status: Literal["ok", "cached"]) -> None:
        found = continuation(body, self.settings.stop)
        self.answer = request.Answer(
            self.call.id, status, "", found.text, found, self.errors, found.n_prompt, found.n_new
        )


def _nobody(_body: dict[str, Any]) -> offline_server.Reply:
    raise ValueError("no offline provider answers for a model")


def _value(row: Question) -> Continuation:
    if row.answer is None or row.answer.status == "failed":
        why = row.errors[-1] if row.errors else "no reply"
        raise UserError(f"data/test.jsonl: {row.call.id}: the server gave no answer: {why}; run again to ask again")
    found: Continuation = row.answer.value
    return found


def answer(questions: list[Question], road: endpoint.Endpoint) -> list[Continuation]:
    """One answer to each question, from the ledger or from the server.

    Raises UserError for a row without one: a system is measured on all rows, or its figures are of other rows.
    """
    with contextlib.closing(ResponseCache(work("llm") / "ledger.sqlite")) as ledger:
        todo = client.look_up([*questions], ledger, request.accept)
        if todo and os.environ.get("ANNEAL_DRY_RUN", "0") not in ("", "0"):
            raise UserError(f"dry run: would send {len(todo)} of {len(questions)} answer requests of the first batch")
        if todo:
            with endpoint.opened(road, _nobody) as ready:
                loop = Scheduler(ready, ledger, request.accept)
                asyncio.run(loop.go(todo))
            if loop.reason is not None:
                raise loop.reason
    return [_value(row) for row in questions]


def writer(
    system: str, model: str | None, weights: str, chosen: dict[str, Decode]
) -> Callable[[list[Record], Decode, list[int]], list[Continuation]]:
    """What answers records, once all settings are `chosen` by their places that it will be asked for.

    The address is ANSWER_BASE_URL and _API_KEY, or OPENAI_BASE_URL and _API_KEY. `weights` stands for what the server
    has loaded: the same name after another training is another system, and must not be answered from the ledger.
    """
    if not model:
        raise UserError(
            f"params.yaml: answer.model.{system}: empty; name what the server calls it, or use another engine"
        )
    for place, settings in chosen.items():
        for key, plain in (("num_beams", 1), ("no_repeat_ngram_size", 0)):
            if (value := getattr(settings, key)) != plain:
                raise UserError(
                    f"params.yaml: answer.{place}.{key}: {value}, which engine: openai cannot do; set {plain}"
                )
    road = endpoint.road("answer", "", _nobody, None)
    chat = request.Chat(model=model, temperature=0.0, top_p=1.0, max_tokens=1, max_failed=0.0)  # settings say the rest

    def write(records: list[Record], settings: Decode, seeds: list[int]) -> list[Continuation]:
        questions = []
        for record, seed in zip(records, seeds, strict=True):
            call, identity = request.Call(record["id"], record["prompt"]), f"{road.identity} {weights} {record['id']}"
            questions.append(Question(call, chat, identity, settings=settings, seed=seed))
        return answer(questions, road)

    return write
