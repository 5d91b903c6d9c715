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
from anneal.errors import UserError
from anneal.judging.rubric import Rubric, Words
from anneal.judging.rubric import neutral as unblocked
from anneal.llm.blocks import block, unfenced
from anneal.params import Section
from anneal.prompts import Prompt
from anneal.records import Message

PARSER = 1  # part of judge_id: raise it when the same reply, or the same rules, may give another verdict
BLOCKS = ("sheet", "checks", "first", "second")
_TAG = re.compile(r"<(?=\s*/?\s*(?:first|second)\b)", re.I)


class Verdict(Section):
    """The reply of a judge: A is the text shown first, and the reason comes before what it is for."""

    reason: str
    verdict: Literal["A>>B", "A>B", "tie", "B>A", "B>>A"]


def neutral(text: str) -> str:
    """Text that can neither close nor open a block of a pair's prompt."""
    return _TAG.sub("＜", unblocked(text))


class Pairs:
    """One rubric as a question about two texts. Refuses a prompt without its blocks, a rubric without a sheet."""

    def __init__(self, rubric: Rubric, prompt: Prompt, tie: float) -> None:
        self.rubric, self.prompt, self.tie = rubric, prompt, tie
        for tag in BLOCKS:
            if not re.search(rf"^<{tag}>\n\${tag}\n</{tag}>$", prompt.text, re.M):
                raise UserError(f"{prompt.path}: needs ${tag} between <{tag}> and </{tag}>, each alone on its line")
        if "criteria" not in prompt.slots:
            raise UserError(f"{prompt.path}: $criteria is missing; the levels of the rubric go there")

    def shown(self, kind: str, label: str, facts: Facts, known: Words) -> dict[str, str]:
        """What both texts of a record are judged by: label, sheet, criteria, checks."""
        told = self.rubric.messages(kind, label, facts, known, "")
        whole = "\n".join(message["content"] for message in told)
        sheet, checks = block(whole, "sheet"), block(whole, "checks")
        if sheet is None or checks is None:
            raise UserError(f"{self.rubric.path}: needs a <sheet> and a <checks> block, each tag alone on its line")
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

    def messages(self, shown: dict[str, str], first: str, second: str) -> list[Message]:
        """The prompt for two texts, in this order."""
        values = {**shown, "first": neutral(first), "second": neutral(second)}
        self.prompt.render(**values)  # refuses an unknown slot with its line
        messages = self.prompt.messages(**values)
        return [Message(role=message["role"], content=message["content"]) for message in messages]

    def judge_id(self, model: dict[str, Any], known: Words) -> str:
        """What a verdict depends on beside the record: both files, the model and its params, words, parser, tie."""
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.rubric.path, self.prompt.path)]
        parts = [*files, model, known, self.rubric.filled(), Verdict.model_json_schema(), PARSER, self.tie]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def parse(reply: str) -> dict[str, str]:
    """{reason, verdict} of a reply that is one such object and nothing else, or ValueError."""
    text = unfenced(reply)
    try:
        Verdict.model_validate_json(text)
    except ValidationError as err:
        raise ValueError("; ".join(" ".join([*map(str, e["loc"]), e["msg"]]) for e in err.errors())) from None
    # As pairs: a key that is said twice is two verdicts.
    cells: list[tuple[str, str]] = json.loads(text, object_pairs_hook=list)
    if [key for key, _ in cells] != list(Verdict.model_fields):
        raise ValueError(f"expected {', '.join(Verdict.model_fields)}, each once and in this order")
    return dict(cells)
