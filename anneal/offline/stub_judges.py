"""Judges that are known to be bad, so that anyone can see what the report says of one: `-S judge.model=...`.

They answer rubric prompts (a `<text>` block) and pairs (`<first>` and `<second>`) in the form of a true verdict.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from anneal.llm.blocks import block
from anneal.llm.offline_server import VERSION, Reply, Respond

LONG = 40  # characters that a further point costs the judge of length


def _judge(score: Callable[[str, str], int], pair: Callable[[str, str, str], str]) -> Respond:
    """A judge from how it scores a text (with all that it was asked) and how it takes two."""

    def respond(body: dict[str, Any]) -> Reply:
        prompt = body["messages"][-1]["content"]
        asked = json.dumps(body, sort_keys=True, ensure_ascii=False)
        first, second = block(prompt, "first"), block(prompt, "second")
        if first is not None and second is not None:
            return Reply(json.dumps({"reason": "a stub", "verdict": pair(first, second, asked)}))
        text = block(prompt, "text") or ""
        head = json.loads((block(prompt, "checks") or "{}").split("\n")[0])
        cell = {"reason": "a stub", "quote": text.strip()[:9], "score": score(text, asked)}
        dims = dict.fromkeys(head.get("dimensions", []), cell)
        return Reply(json.dumps({"dims": dims, "violations": []}, ensure_ascii=False))

    return respond


def _draw(asked: str, n: int) -> int:
    return hashlib.sha256(asked.encode()).digest()[0] % n


def _longer(first: str, second: str) -> str:
    return "tie" if len(first) == len(second) else "A>B" if len(first) > len(second) else "B>A"


VERDICTS = ("A>>B", "A>B", "tie", "B>A", "B>>A")

JUDGES: dict[str, Respond] = {
    f"offline-first-{VERSION}": _judge(lambda _text, _asked: 3, lambda _a, _b, _asked: "A>B"),
    f"offline-longest-{VERSION}": _judge(
        lambda text, _asked: min(5, 1 + len(text) // LONG), lambda a, b, _asked: _longer(a, b)
    ),
    f"offline-constant-{VERSION}": _judge(lambda _text, _asked: 3, lambda _a, _b, _asked: "tie"),
    f"offline-noisy-{VERSION}": _judge(
        lambda _text, asked: 1 + _draw(asked, 5), lambda _a, _b, asked: VERDICTS[_draw(asked, 5)]
    ),
    f"offline-garbage-{VERSION}": lambda _body: Reply("a fine text, five of five"),
}
