"""A call to a language model: what is asked, how it is keyed, and what a reply makes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from anneal.llm import response
from anneal.params import Count, Section, Share

ATTEMPTS = 6  # requests for one row in one run
RAISES = 2  # times that max_tokens is doubled for an answer that was cut short
ASKED = ("model", "temperature", "top_p", "max_tokens")  # of a Chat, what the answer hangs on
AGAIN: dict[response.Kind, int] = {"length": RAISES, "content_filter": 1}  # repeats after a reply of this kind
# A judge that is asked until its reply can be read is one whose failures nobody sees: few repeats, and counted.
JUDGED: dict[response.Kind, int] = {**AGAIN, "check": 2, "empty": 2, "refusal": 0}


class Chat(Section):
    """Who is asked, and how: what changes the answer."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: Count
    max_failed: Share  # of all rows; more of them fail the stage


@dataclass(frozen=True)
class Call:
    id: str
    messages: list[dict[str, str]]
    sample: int = 0  # another number is another answer to the same prompt
    check: Callable[[str], Any] | None = None  # for this call alone, in place of the check of the whole `ask`


@dataclass
class Answer:
    """What became of a call. Tokens are those of the answer, also when the ledger gave it."""

    id: str
    status: Literal["ok", "cached", "failed"]
    kind: response.Kind = ""
    text: str = ""
    value: Any = None
    errors: list[str] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    request: str = ""  # what was asked, as a hash; the same on every road
    refused: list[response.Kind] = field(default_factory=list)  # replies that were none, this and earlier runs'


def accept(text: str) -> str:
    return text


def _hash(parts: list[Any]) -> str:
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Row:
    """One call on its way. `refused` holds the kinds of its unusable replies, of this run and of earlier ones."""

    call: Call
    chat: Chat
    identity: str
    refused: list[response.Kind] = field(default_factory=list)
    fresh: list[response.Kind] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    tries: int = 0
    waits: int = 0
    answer: Answer | None = None
    again: dict[response.Kind, int] = field(default_factory=lambda: AGAIN)

    def body(self) -> dict[str, Any]:
        """The request as sent: an answer that was cut short gets more room, not the same request again."""
        room = self.chat.max_tokens * 2 ** min(RAISES, self.refused.count("length"))
        body: dict[str, Any] = {"model": self.chat.model, "messages": self.call.messages, "max_tokens": room}
        body["temperature"] = self.chat.temperature
        if self.chat.top_p < 1:  # models that reason refuse the key; 1 is what its absence means
            body["top_p"] = self.chat.top_p
        if self.identity.startswith("offline/") and (self.call.sample or self.refused):
            # The same request gives the offline provider's same words; a real one draws new ones.
            body["seed"] = 1000 * self.call.sample + len(self.refused)
        return body

    def key(self) -> str:
        return _hash([self.identity, self.body(), self.call.sample, len(self.refused)])

    def request(self) -> str:
        """What is asked, whoever answers and however often: rows keep it, and a replay finds their reply by it."""
        return _hash([self.chat.model_dump(include=set(ASKED)), self.call.messages, self.call.sample])

    def refuse(self, kind: response.Kind) -> None:
        """Count a reply of this run that is no answer."""
        self.refused.append(kind)
        self.fresh.append(kind)

    def finished(self) -> bool:
        """Whether to give up: out of attempts, filtered twice, or cut short with all the room there is."""
        last = self.fresh[-1] if self.fresh else ""
        return self.tries >= ATTEMPTS or (last in self.again and self.refused.count(last) > self.again[last])

    def take(self, body: str, check: Callable[[str], Any], status: Literal["ok", "cached"]) -> None:
        """Make an answer of a reply. Raises reply.Unusable."""
        text = response.text(body)
        try:
            value = (self.call.check or check)(text)
        except ValueError as err:
            raise response.Unusable("check", str(err)) from None
        self.answer = Answer(
            self.call.id, status, "", text, value, self.errors, *response.tokens(body), refused=self.refused
        )

    def fail(self, kind: response.Kind) -> None:
        self.answer = Answer(self.call.id, "failed", kind, errors=self.errors, refused=self.refused)
