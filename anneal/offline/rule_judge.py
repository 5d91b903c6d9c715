"""The offline judge: applies the rules that it finds in a judge prompt, and nothing else.

It sees the request only: the rules stand in the `<checks>` block, one JSON object a line, the candidate in the `<text>`
block. It is a checker and no oracle of quality: it finds what a pattern can find, and is blind to taste, to persuasion
and to facts outside the words it was given.

Every rule is monotone: a text gains only by saying what a `need` asks for, and anything else can only cost. So padding
never pays, and a short text loses by what it lacks, not by its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from anneal.llm.blocks import block
from anneal.llm.offline_server import Reply

# Raise it when the same request may be answered otherwise; it is part of the judge's identity.
VERSION = "1"

Rule = dict[str, Any]
Miss = tuple[int, str]  # how often a rule is missed, and the passage that shows it, "" where none does
_SENTENCE = re.compile(r"[^。！？!?\n]*[。！？!?\n]|[^。！？!?\n]+\Z")


def sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE.findall(text) if part.strip()]


def _need(rule: Rule, text: str) -> Miss:
    parts, met = sentences(text), dict[str, str]()
    for part in {"all": parts, "head": parts[:1], "tail": parts[-1:]}[rule.get("where", "all")]:
        if not any(re.search(pattern, part) for pattern in rule.get("unless", [])):
            met |= {pattern: found[0] for pattern in rule.get("of", []) if (found := re.search(pattern, part))}
    # A sheet may hold fewer words than the rule asks for; then all of them are enough.
    return max(0, min(rule["limit"], len(rule.get("of", []))) - len(met)), next(iter(met.values()), "")


def _forbid(rule: Rule, text: str) -> Miss:
    spans: list[tuple[re.Match[str], bool]] = []  # the match, and whether it is allowed
    for key, allowed in (("unless", True), ("of", False)):
        for pattern in rule.get(key, []):
            spans += [(match, allowed) for match in re.finditer(pattern, text)]
    taken: list[re.Match[str]] = []
    broken: dict[str, None] = {}
    # The longest match takes its place first, and an allowed one before a forbidden one of the same length: an
    # allowed word inside a longer forbidden one excuses nothing, and the other way round it accuses nothing.
    for match, allowed in sorted(spans, key=lambda span: (-len(span[0][0]), not span[1], span[0].start())):
        if match[0] and not any(match.start() < other.end() and other.start() < match.end() for other in taken):
            taken.append(match)
            broken |= {} if allowed else {match[0]: None}
    return max(0, len(broken) - rule["limit"]), next(iter(broken), "")


def _order(rule: Rule, text: str) -> Miss:
    # A sentence said again, or the same words found again, is no further step.
    distinct = "".join(dict.fromkeys(_SENTENCE.findall(text)))
    place, met = 0, list[str]()
    for pattern in rule.get("of", []):
        for found in re.compile(pattern).finditer(distinct, place):
            if found[0] not in met:
                place, met = found.end(), [*met, found[0]]
                break
    return len(rule.get("of", [])) - len(met), next(iter(met), "")


def _length(rule: Rule, text: str) -> Miss:
    over = len(text) - rule["limit"]
    return max(0, -(-4 * over // rule["limit"])), ""  # each quarter that is begun


def _repeat(rule: Rule, text: str) -> Miss:
    parts = [part for part in sentences(text) if len(part) > 5]
    again = [part for place, part in enumerate(parts) if part in parts[:place]]
    return max(0, len(again) - rule["limit"]), next(iter(again), "")


CHECKS: dict[str, Callable[[Rule, str], Miss]] = {
    "need": _need,
    "forbid": _forbid,
    "order": _order,
    "length": _length,
    "repeat": _repeat,
}


def verdict(rules: list[Rule], dimensions: list[str], gates: list[str], text: str) -> dict[str, Any]:
    """The verdict that these rules give: 5 less the cost of every miss, not below 1, with reason and quote."""
    opening = next(iter(sentences(text)), "")
    dims: dict[str, dict[str, Any]] = {}
    violations: list[dict[str, str]] = []
    for name in dimensions:
        lost, reasons = 0, list[str]()
        quotes, shown = list[str](), list[str]()
        for rule in (rule for rule in rules if rule["dimension"] == name):
            missed, quote = CHECKS[rule["check"]](rule, text)
            (quotes if missed else shown).append(quote)
            if missed:
                lost += missed * rule["cost"]
                reasons.append(f"{rule['rule']}: {rule['why']} (-{missed * rule['cost']})")
            if missed and rule["rule"] in gates:
                violations.append({"rule": rule["rule"], "quote": quote if quote.strip() else opening})
        # What is absent cannot be quoted; the opening stands for the text then.
        quote = next((q for q in quotes + shown if q.strip()), opening)
        reason = "; ".join(reasons) or "no rule of this dimension is missed"
        dims[name] = {"reason": reason, "quote": quote, "score": max(1, 5 - lost)}
    return {"dims": dims, "violations": violations}


def respond(body: dict[str, Any]) -> Reply:
    """The offline judge of a chat request; ValueError (an HTTP 400) where the prompt has no rules or no text."""
    prompt = body["messages"][-1]["content"]
    checks, text = block(prompt, "checks"), block(prompt, "text")
    if checks is None or text is None:
        raise ValueError("the offline judge needs a <checks> and a <text> block, each tag alone on its line")
    head, *rules = [json.loads(line) for line in checks.split("\n")]
    scores = verdict(rules, head["dimensions"], head["gates"], text)
    return Reply(json.dumps(scores, ensure_ascii=False))
