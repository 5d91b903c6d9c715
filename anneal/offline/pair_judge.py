"""The rule judge of pairs: scores both texts alone and compares the totals."""

from __future__ import annotations

import json
from typing import Any

from anneal.llm.blocks import block
from anneal.llm.offline_server import Reply
from anneal.offline import rule_judge

# Raise it when the same request may be answered otherwise; it is part of the judge's identity.
VERSION = f"1.{rule_judge.VERSION}"
FAR = 1.0  # points between two totals from which one text is much better


def _total(head: dict[str, Any], verdict: dict[str, Any]) -> float:
    """The total of a rubric: the weighted mean of the scores, no better than the strictest gate that is broken."""
    weights: dict[str, float] = head["dimensions"]
    points: float = sum(weights[name] * cell["score"] for name, cell in verdict["dims"].items())
    caps = [head["gates"][entry["rule"]] for entry in verdict["violations"]]
    return float(round(min([points / sum(weights.values()), *caps]), 6))


def _reason(name: str, total: float, verdict: dict[str, Any]) -> str:
    lost = [f"{dim} {cell['score']}" for dim, cell in verdict["dims"].items() if cell["score"] < 5]
    lost += [entry["rule"] for entry in verdict["violations"]]
    return f"{name} {total:.2f} ({', '.join(lost) or 'no rule missed'})"


def respond(body: dict[str, Any]) -> Reply:
    """The rules as a judge of pairs: both texts scored alone, and the totals compared, so that no order can count.

    ValueError (an HTTP 400) where the prompt has no rules or not two texts.
    """
    prompt = body["messages"][-1]["content"]
    checks, first, second = (block(prompt, tag) for tag in ("checks", "first", "second"))
    if checks is None or first is None or second is None:
        raise ValueError("the offline judge of pairs needs a <checks>, a <first> and a <second> block")
    head, *rules = [json.loads(line) for line in checks.split("\n")]
    dimensions, gates = list(head["dimensions"]), list(head["gates"])
    verdict_a = rule_judge.verdict(rules, dimensions, gates, first)
    verdict_b = rule_judge.verdict(rules, dimensions, gates, second)
    total_a, total_b = _total(head, verdict_a), _total(head, verdict_b)
    gap = round(total_a - total_b, 6)
    mark = ">" if abs(gap) < FAR else ">>"
    verdict = "tie" if abs(gap) <= head["tie"] else f"A{mark}B" if gap > 0 else f"B{mark}A"
    reason = f"{_reason('A', total_a, verdict_a)} against {_reason('B', total_b, verdict_b)}"
    return Reply(json.dumps({"reason": reason, "verdict": verdict}, ensure_ascii=False))
