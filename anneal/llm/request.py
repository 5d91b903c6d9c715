"""A call to a language model: its messages and settings, its cache key, its repeats and its answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from anneal.llm import response
from anneal.params import Count, Section, Share

ATTEMPTS = 6  # requests for one row in one run
RAISES = 2  # times that max_tokens is doubled for an answer that was cut short
ASKED = ("model", "temperature", "top_p", "max_tokens")  # the fields of a Chat that change an answer
REPEATS: dict[response.Kind, int] = {"length": RAISES, "content_filter": 1}  # repeats after a reply of this kind
# A judge that is asked until its reply parses hides its own failures: few repeats, and the failures are counted.
JUDGE_REPEATS: dict[response.Kind, int] = {**REPEATS, "check": 2, "empty": 2, "refusal": 0}


class Chat(Section):
    """Model and settings of a call. All but `max_failed` change the answer."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: Count
    max_failed: Share  # of all rows; more of them fail the stage


@dataclass(frozen=True)
class Call:
    """One prompt to complete."""

    id: str
    messages: Sequence[Mapping[str, object]]  # of role and content, each a string
    sample: int = 0  # another number is another answer to the same prompt
    check: Callable[[str], Any] | None = None  # for this call alone, in place of the check of the whole `ask`


@dataclass
class Answer:
    """The outcome of a call. Tokens are those of the answer, also when it comes from the cache."""

    id: str
    status: Literal["ok", "cached", "failed"]
    kind: response.Kind = ""  # of the failure
    text: str = ""
    value: Any = None  # of the check
    errors: list[str] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    request: str = ""  # hash of the request; independent of the endpoint
    refused: list[response.Kind] = field(default_factory=list)  # kinds of its unusable replies, earlier runs included


def accept(text: str) -> str:
    """The check that takes every text."""
    return text


def _hash(parts: list[Any]) -> str:
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Pending:
    """One call until it is answered. `refused` holds the kinds of its unusable replies, `fresh` those of this run."""

    call: Call
    chat: Chat
    identity: str  # of the endpoint
    refused: list[response.Kind] = field(default_factory=list)
    fresh: list[response.Kind] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    tries: int = 0
    waits: int = 0
    answer: Answer | None = None
    repeats: dict[response.Kind, int] = field(default_factory=lambda: REPEATS)

    def body(self) -> dict[str, Any]:
        """The request as sent: after an answer that was cut short, with a doubled max_tokens."""
        max_tokens = self.chat.max_tokens * 2 ** min(RAISES, self.refused.count("length"))
        body: dict[str, Any] = {"model": self.chat.model, "messages": self.call.messages, "max_tokens": max_tokens}
        body["temperature"] = self.chat.temperature
        if self.chat.top_p < 1:  # reasoning models reject the key; its absence means 1
            body["top_p"] = self.chat.top_p
        if self.identity.startswith("offline/") and (self.call.sample or self.refused):
            # The offline provider answers equal requests alike, a real one draws anew: only the former needs a seed.
            body["seed"] = 1000 * self.call.sample + len(self.refused)
        return body

    def key(self) -> str:
        """The key of the next reply in the response cache."""
        return _hash([self.identity, self.body(), self.call.sample, len(self.refused)])

    def request(self) -> str:
        """Hash of model, settings, messages and sample, independent of endpoint and repeats.

        Rows on disk hold it, and a replay finds their reply by it.
        """
        return _hash([self.chat.model_dump(include=set(ASKED)), self.call.messages, self.call.sample])

    def refuse(self, kind: response.Kind) -> None:
        """Count an unusable reply of this run."""
        self.refused.append(kind)
        self.fresh.append(kind)

    def exhausted(self) -> bool:
        """Whether the row fails: out of attempts, or the last kind of reply has come more often than it may."""
        last = self.fresh[-1] if self.fresh else ""
        return self.tries >= ATTEMPTS or (last in self.repeats and self.refused.count(last) > self.repeats[last])

    def take(self, body: str, check: Callable[[str], Any], status: Literal["ok", "cached"]) -> None:
        """Set the answer from the body of a reply. Raises response.Unusable."""
        text = response.text(body)
        try:
            value = (self.call.check or check)(text)
        except ValueError as err:
            raise response.Unusable("check", str(err)) from None
        self.answer = Answer(
            self.call.id, status, "", text, value, self.errors, *response.tokens(body), refused=self.refused
        )

    def fail(self, kind: response.Kind) -> None:
        """Set a failed answer."""
        self.answer = Answer(self.call.id, "failed", kind, errors=self.errors, refused=self.refused)
