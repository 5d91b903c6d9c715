"""Golden texts without a pipeline: records of data/test.jsonl by the offline teacher, its planted faults left out."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anneal import files, prompts
from anneal.checks import facts
from anneal.llm.offline_server import Respond
from anneal.offline import phrase_teacher
from tests.conftest import ROOT, recipe_values

BRAND = ROOT / "data/raw/brand"
VALUES = recipe_values("brand")
TYPES: dict[str, str] = VALUES["types"]
RULES = facts.Rules.model_validate({**VALUES["rules"], "folder": str(BRAND / "rules")})
KNOWN = facts.known(RULES)


@cache
def teacher() -> Respond:
    with TemporaryDirectory() as folder:
        shutil.copytree(BRAND / "offline", folder, dirs_exist_ok=True)
        (Path(folder) / "faults.json").unlink()
        return phrase_teacher.teacher(Path(folder))


def written(sheet: dict[str, Any], kind: str, seed: int = 0, stage: str = "generate", **slots: str) -> str:
    """What the teacher answers to a prompt of the recipe; another seed, other words."""
    name = stage if "/" in stage else f"{stage}/{kind}"
    prompt = prompts.Prompt(ROOT / f"prompts/brand/{name}.md")
    messages = prompt.messages(**prompts.slots(sheet), label=TYPES[kind], **slots)
    return teacher()({"model": "offline-1", "messages": messages, "temperature": 1.0, "seed": seed}).text


def records(first: int = 0, last: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """Records of some products, all types, keys sorted as a file has them."""
    rows = []
    for item in files.read(BRAND / "products.jsonl", "id")[first:last]:
        sheet = {key: value for key, value in item.items() if key != "id"}
        for kind in TYPES:
            row = {"id": f"{item['id']}/{kind}/0", "item": item["id"], "type": kind, "facts": sheet}
            row["prompt"] = [{"role": "user", "content": kind}]
            row["completion"] = [{"role": "assistant", "content": written(sheet, kind, seed)}]
            rows.append(json.loads(json.dumps(row, ensure_ascii=False, sort_keys=True)))
    return rows


def vague(record: dict[str, Any]) -> str:
    """A text that says hardly anything: worse than a weak one, which is a sound text with less in it."""
    return f"{record['facts']['name']}用着挺不错，质地也好，值得拥有。"


def text(record: dict[str, Any]) -> str:
    return str(record["completion"][0]["content"])


def answers(
    test: list[dict[str, Any]], words: dict[str, str], nats: float, cut: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Answers of a system: id to words, `nats` for each character of the golden text, some cut at the length limit."""
    return [
        {
            "id": row["id"],
            "item": row["item"],
            "type": row["type"],
            "text": words[row["id"]],
            "finish": "length" if row["id"] in cut else "stop",
            "n_prompt": 9,
            "n_new": 9,
            "target_logprob": -nats * len(text(row)),
            "n_target": len(text(row)),
            "n_bytes": len(text(row).encode()),
        }
        for row in test
    ]
