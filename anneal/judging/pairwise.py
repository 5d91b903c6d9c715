"""Two texts side by side: what a judge is shown of them, which replies are a verdict, and the rules as a judge.

The sheet, the levels and the rules are those of the rubric that scores one text, taken from its filled prompt, so that
both ways of asking rest on one file. Nothing in a prompt says who wrote which text.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import ValidationError

from anneal.checks.facts import Facts
from anneal.judging.rubric import Rubric, Words
from anneal.judging.rubric import neutral as unblocked
from anneal.llm.offline_server import Reply
from anneal.offline import rule_judge
from anneal.params import Refusal, Section
from anneal.prompts import Prompt

PARSER = 1  # part of judge_id: raise it when the same reply, or the same rules, may give another verdict
FAR = 1.0  # points between two totals from which one text is much better
BLOCKS = ("sheet", "checks", "first", "second")
_TAG = re.compile(r"<(?=\s*/?\s*(?:first|second)\b)", re.I)
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.S)


class Verdict(Section):
    """The reply of a judge: A is the text shown first, and the reason comes before what it is for."""

    reason: str
    verdict: Literal["A>>B", "A>B", "tie", "B>A", "B>>A"]


def neutral(text: str) -> str:
    """Text that can neither close nor open a block of a pair's prompt."""
    return _TAG.sub("＜", unblocked(text))


def _block(prompt: str, tag: str) -> str | None:
    found = re.search(rf"^<{tag}>\n(.*?)\n?^</{tag}>$", prompt, re.M | re.S)
    return found[1] if found else None


class Pairs:
    """One rubric as a question about two texts. Refuses a prompt without its blocks, a rubric without a sheet."""

    def __init__(self, rubric: Rubric, prompt: Prompt, tie: float) -> None:
        self.rubric, self.prompt, self.tie = rubric, prompt, tie
        for tag in BLOCKS:
            if not re.search(rf"^<{tag}>\n\${tag}\n</{tag}>$", prompt.text, re.M):
                raise Refusal(f"{prompt.path}: needs ${tag} between <{tag}> and </{tag}>, each alone on its line")
        if "criteria" not in prompt.slots:
            raise Refusal(f"{prompt.path}: $criteria is missing; the levels of the rubric go there")

    def shown(self, kind: str, label: str, facts: Facts, known: Words) -> dict[str, str]:
        """What both texts of a record are judged by: label, sheet, criteria, checks."""
        told = self.rubric.messages(kind, label, facts, known, "")
        whole = "\n".join(message["content"] for message in told)
        sheet, checks = _block(whole, "sheet"), _block(whole, "checks")
        if sheet is None or checks is None:
            raise Refusal(f"{self.rubric.path}: needs a <sheet> and a <checks> block, each tag alone on its line")
        # Without the sheet, whose words may look like a heading.
        levels = self._criteria(re.sub(r"^<sheet>\n.*?^</sheet>$", "", whole, count=1, flags=re.M | re.S))
        rules = "\n".join([json.dumps(self._head()), *checks.split("\n")[1:]])
        return {"label": label, "sheet": neutral(sheet), "criteria": levels, "checks": neutral(rules)}

    def _head(self) -> dict[str, Any]:
        return {"dimensions": self.rubric.header.dimensions, "gates": self.rubric.header.gates, "tie": self.tie}

    def _criteria(self, prompt: str) -> str:
        """The levels of every dimension as the rubric words them, each with its share of the total."""
        weights, parts = self.rubric.header.dimensions, []
        for name, weight in weights.items():
            section = re.search(rf"^### {re.escape(name)}\b(.*?)(?=^#|\Z)", prompt, re.M | re.S)
            assert section is not None  # no rubric is without it
            parts.append(f"### {name} ({weight / sum(weights.values()):.0%})\n\n{section[1].strip()}")
        return "\n\n".join(parts)

    def messages(self, shown: dict[str, str], first: str, second: str) -> list[dict[str, str]]:
        """The prompt for two texts, in this order."""
        values = {**shown, "first": neutral(first), "second": neutral(second)}
        self.prompt.render(**values)  # refuses an unknown slot with its line
        return self.prompt.messages(**values)

    def judge_id(self, model: dict[str, Any], known: Words) -> str:
        """What a verdict depends on beside the record: both files, the model and its params, words, parser, tie."""
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.rubric.path, self.prompt.path)]
        parts = [*files, model, known, Verdict.model_json_schema(), PARSER, self.tie]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def parse(reply: str) -> dict[str, str]:
    """{reason, verdict} of a reply that is one such object and nothing else, or ValueError."""
    fenced = _FENCE.match(reply.strip())
    text = fenced[1] if fenced else reply
    try:
        Verdict.model_validate_json(text)
    except ValidationError as err:
        raise ValueError("; ".join(" ".join([*map(str, e["loc"]), e["msg"]]) for e in err.errors())) from None
    # As pairs: a key that is said twice is two verdicts.
    cells: list[tuple[str, str]] = json.loads(text, object_pairs_hook=list)
    if [key for key, _ in cells] != list(Verdict.model_fields):
        raise ValueError(f"expected {', '.join(Verdict.model_fields)}, each once and in this order")
    return dict(cells)


def _total(head: dict[str, Any], verdict: dict[str, Any]) -> float:
    """The total of a rubric: the weighted mean of the scores, no better than the strictest gate that is broken."""
    weights: dict[str, float] = head["dimensions"]
    points: float = sum(weights[name] * cell["score"] for name, cell in verdict["dims"].items())
    caps = [head["gates"][entry["rule"]] for entry in verdict["violations"]]
    return float(round(min([points / sum(weights.values()), *caps]), 6))


def _said(name: str, total: float, verdict: dict[str, Any]) -> str:
    lost = [f"{dim} {cell['score']}" for dim, cell in verdict["dims"].items() if cell["score"] < 5]
    lost += [entry["rule"] for entry in verdict["violations"]]
    return f"{name} {total:.2f} ({', '.join(lost) or 'no rule missed'})"


def respond(body: dict[str, Any]) -> Reply:
    """The rules as a judge of pairs: both texts scored alone, and the totals compared, so that no order can count.

    ValueError (an HTTP 400) where the prompt has no rules or not two texts.
    """
    prompt = body["messages"][-1]["content"]
    checks, first, second = (_block(prompt, tag) for tag in BLOCKS[1:])
    if checks is None or first is None or second is None:
        raise ValueError("the offline judge of pairs needs a <checks>, a <first> and a <second> block")
    head, *rules = [json.loads(line) for line in checks.split("\n")]
    both = [rule_judge.verdict(rules, list(head["dimensions"]), list(head["gates"]), text) for text in (first, second)]
    ours, theirs = (_total(head, verdict) for verdict in both)
    gap = round(ours - theirs, 6)
    mark = ">" if abs(gap) < FAR else ">>"
    verdict = "tie" if abs(gap) <= head["tie"] else f"A{mark}B" if gap > 0 else f"B{mark}A"
    reason = f"{_said('A', ours, both[0])} against {_said('B', theirs, both[1])}"
    return Reply(json.dumps({"reason": reason, "verdict": verdict}, ensure_ascii=False))
