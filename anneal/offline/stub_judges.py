"""Stub judges are known to be bad: they show what the report says of a bad judge (`-S judge.model=...`).

They answer rubric prompts (a `<text>` block) and pairs (`<first>` and `<second>`) in the form of a real judge's reply.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from anneal.llm.blocks import block
from anneal.llm.offline_server import VERSION, Reply, Respond

LONG = 40  # characters for which `offline-longest` gives one more point


def _judge(score: Callable[[str, str], int], pair: Callable[[str, str, str], str]) -> Respond:
    """A judge from two functions: `score` of (text, request), and `pair`, the verdict of (first, second, request)."""

    def respond(body: dict[str, Any]) -> Reply:
        prompt = body["messages"][-1]["content"]
        request = json.dumps(body, sort_keys=True, ensure_ascii=False)
        first, second = block(prompt, "first"), block(prompt, "second")
        if first is not None and second is not None:
            return Reply(json.dumps({"reason": "a stub", "verdict": pair(first, second, request)}))
        text = block(prompt, "text") or ""
        # The first line of the block lists the dimensions that the rubric asks for.
        checks = json.loads((block(prompt, "checks") or "{}").split("\n")[0])
        cell = {"reason": "a stub", "quote": text.strip()[:9], "score": score(text, request)}
        dims = dict.fromkeys(checks.get("dimensions", []), cell)
        return Reply(json.dumps({"dims": dims, "violations": []}, ensure_ascii=False))

    return respond


def _draw(request: str, n: int) -> int:
    """A number below `n` that depends on the request alone, so that a repeated request gets the same answer."""
    return hashlib.sha256(request.encode()).digest()[0] % n


def _longer(first: str, second: str) -> str:
    if len(first) == len(second):
        return "tie"
    return "A>B" if len(first) > len(second) else "B>A"


VERDICTS = ("A>>B", "A>B", "tie", "B>A", "B>>A")

JUDGES: dict[str, Respond] = {
    f"offline-first-{VERSION}": _judge(lambda _text, _request: 3, lambda _a, _b, _request: "A>B"),
    f"offline-longest-{VERSION}": _judge(
        lambda text, _request: min(5, 1 + len(text) // LONG), lambda a, b, _request: _longer(a, b)
    ),
    f"offline-constant-{VERSION}": _judge(lambda _text, _request: 3, lambda _a, _b, _request: "tie"),
    f"offline-noisy-{VERSION}": _judge(
        lambda _text, request: 1 + _draw(request, 5), lambda _a, _b, request: VERDICTS[_draw(request, 5)]
    ),
    f"offline-garbage-{VERSION}": lambda _body: Reply("a fine text, five of five"),
}
