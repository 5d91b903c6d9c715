"""Formatting: rows that TRL takes as they are, prompts that stay put, and nothing dropped without a number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages import format as stage
from stages.lib import chat, jsonl
from stages.lib.params import Refusal

from . import micro

TYPES = {"note": "笔记", "advert": "广告"}
POLICY = stage.Format(max_length=200, over_length="drop", unmaskable="drop")


def source(number: int, text: str = "今天很好。") -> dict[str, Any]:
    facts = {
        "name": f"产品{number}",
        "effects": ["保湿", "修护"],
        "ingredients": [{"name": "甘油", "concentration": "5%"}],
    }
    return {
        "id": f"p{number:03}/note/0", "item": f"p{number:03}", "type": "note", "facts": facts, "text": text,
        "log_prob": -1.0,
    }  # fmt: skip


@pytest.fixture
def checkout(toy: Path) -> Path:
    """A checkout of its own: a random base, a prompt folder, 40 records with an answer and a worse one."""
    micro.base(toy / "models/base")
    folder = toy / "prompts/own/format"
    folder.mkdir(parents=True)
    (folder / "system.md").write_text("你写$label。\n")
    (folder / "user.md").write_text("$instruction\n\n产品：$name\n成分：$ingredients_names\n功效：$effects\n")
    (folder / "wordings.md").write_text("写一篇$label。\n\n请写$label\n给$name 写$label。\n")
    records = [source(number) for number in range(40)]
    jsonl.write("data/filtered.jsonl", records)
    jsonl.write("data/rejected.jsonl", [{**r, "kind": "weak", "text": "不好。", "changes": []} for r in records])
    return toy


def made(**changed: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
    stage.main(seed=42, recipe="own", types=TYPES, format=POLICY.model_copy(update=changed))
    metrics = json.loads(Path("reports/metrics/format.json").read_text("utf-8"))
    return jsonl.read("data/formatted.jsonl"), jsonl.read("data/pairs.jsonl"), metrics


def test_rows_hold_a_filled_prompt_and_the_text(checkout: Path) -> None:
    rows, pairs, metrics = made()
    assert len(rows) == len(pairs) == 40 == metrics["rows"] == metrics["masks"]["stop_learnt"]
    assert set(rows[0]) == {"id", "item", "type", "facts", "prompt", "completion"}
    assert set(pairs[0]) == {"id", "item", "type", "kind", "prompt", "chosen", "rejected"}
    for row, pair in zip(rows, pairs, strict=True):
        assert [m["role"] for m in row["prompt"]] == ["system", "user"]
        assert row["prompt"][0]["content"] == "你写笔记。"
        assert row["prompt"][1]["content"].endswith("\n成分：甘油\n功效：保湿、修护")
        assert "$" not in row["prompt"][1]["content"]
        assert row["completion"] == pair["chosen"] == [{"role": "assistant", "content": "今天很好。"}]
        assert pair["rejected"] == [{"role": "assistant", "content": "不好。"}]
        assert pair["prompt"] == row["prompt"], "a row and its pair share the prompt"


def test_an_empty_system_prompt_makes_no_message(checkout: Path) -> None:
    (checkout / "prompts/own/format/system.md").write_text("\n")
    rows, _, _ = made()
    assert {len(row["prompt"]) for row in rows} == {1}


def test_wordings_are_shared_out_and_a_new_record_moves_no_other(checkout: Path) -> None:
    first, _, metrics = made()
    used = Counter(row["prompt"][1]["content"].splitlines()[0].replace(row["facts"]["name"], "X") for row in first)
    assert set(used) == {"写一篇笔记。", "请写笔记", "给X 写笔记。"}
    assert min(used.values()) >= 6
    assert metrics["wordings"] == {
        "line_1": used["写一篇笔记。"] / 40, "line_2": used["请写笔记"] / 40, "line_3": used["给X 写笔记。"] / 40,
    }  # fmt: skip
    jsonl.write("data/filtered.jsonl", [source(number) for number in (99, *range(40))])
    again, _, _ = made()
    assert again[1:] == first
    stage.main(seed=7, recipe="own", types=TYPES, format=POLICY)
    assert jsonl.read("data/formatted.jsonl")[1:] != first


def test_token_statistics_are_those_of_the_rows(checkout: Path) -> None:
    rows, _, metrics = made()
    tokenizer = micro.tokenizer()
    encoded = [chat.encode(tokenizer, row["prompt"], row["completion"]) for row in rows]
    prompts, totals = sorted(row.prompt for row in encoded), sorted(len(row.ids) for row in encoded)
    assert metrics["tokens"]["prompt"]["p50"] == prompts[19]
    assert metrics["tokens"]["total"]["p90"] == totals[35]
    assert metrics["tokens"]["total"]["max"] == totals[-1]
    assert metrics["tokens"]["completion"]["max"] == len(tokenizer("今天很好。")["input_ids"]) + 1
    assert stage.spread([5, 1, 3]) == {"p50": 3, "p90": 5, "p95": 5, "p99": 5, "max": 5}
    assert stage.spread([]) == {"p50": 0, "p90": 0, "p95": 0, "p99": 0, "max": 0}


def test_a_row_that_is_too_long_is_dropped_with_its_pair_or_fails_but_is_never_cut(checkout: Path) -> None:
    records = [source(number, "今天很好。" * (100 if number == 5 else 1)) for number in range(40)]
    jsonl.write("data/filtered.jsonl", records)
    rejected = [{**r, "kind": "weak", "text": "不好。" * (100 if n == 6 else 1)} for n, r in enumerate(records)]
    jsonl.write("data/rejected.jsonl", rejected)
    rows, pairs, metrics = made()
    assert "p005/note/0" not in {row["id"] for row in rows}
    assert {row["id"] for row in rows} - {pair["id"] for pair in pairs} == {"p006/note/0"}
    assert (metrics["records"], metrics["rows"], metrics["over_length"]["rows"]) == (40, 39, 1)
    assert metrics["over_length"]["share"] == 1 / 40
    assert metrics["pairs"] == {"records": 40, "rows": 38, "over_length": 1, "unmaskable": 0}
    assert all(row["completion"][0]["content"] == "今天很好。" for row in rows)
    with pytest.raises(Refusal, match=r"data/filtered.jsonl: 1 rows are longer than .* first p005/note/0"):
        made(over_length="fail")
    with pytest.raises(Refusal, match=r"40 rows are longer than format.max_length 20 tokens"):
        made(max_length=20)


def test_a_row_that_cannot_be_masked_is_counted_with_its_reason(checkout: Path) -> None:
    template = checkout / "models/base/chat_template.jinja"
    refusing = (
        "{% for m in messages %}{% if 'BAD' in m.content %}{{ raise_exception('no BAD') }}{% endif %}{% endfor %}"
    )
    template.write_text(refusing + template.read_text())
    jsonl.write("data/filtered.jsonl", [source(number, "BAD" if number < 2 else "好。") for number in range(40)])
    rows, _, metrics = made()
    assert len(rows) == 38
    assert metrics["masks"]["refused"] == {"the chat template refuses the conversation: no BAD": 2}
    assert metrics["masks"]["masked"] == metrics["masks"]["stop_learnt"] == 38
    with pytest.raises(Refusal, match=r"2 rows cannot be masked, first p000/note/0: 2 x the chat template refuses"):
        made(unmaskable="fail")
    jsonl.write("data/filtered.jsonl", [source(number, "BAD") for number in range(3)])
    with pytest.raises(Refusal, match="3 rows cannot be masked"):
        made()


def test_a_template_that_ignores_the_system_text_is_told(checkout: Path) -> None:
    template = checkout / "models/base/chat_template.jinja"
    template.write_text(
        "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + template.read_text()
    )
    assert made()[2]["masks"]["notes"]["dropped"] == 40


def test_trl_loads_rows_and_pairs_as_they_are(checkout: Path) -> None:
    from datasets import load_dataset
    from trl.data_utils import is_conversational

    made()
    for name, keys in (("formatted", ("prompt", "completion")), ("pairs", ("prompt", "chosen", "rejected"))):
        data = load_dataset("json", data_files=str(checkout / f"data/{name}.jsonl"), cache_dir=str(checkout / "cache"))
        assert len(data["train"]) == 40
        assert is_conversational({key: data["train"][0][key] for key in keys})


def test_mistakes_are_refused_with_their_place(checkout: Path) -> None:
    folder = checkout / "prompts/own/format"
    with pytest.raises(Refusal, match="models/base has positions for 512 tokens only"):
        made(max_length=513)
    jsonl.write("data/filtered.jsonl", [{**source(1), "type": "poem"}])
    with pytest.raises(Refusal, match=r"p001/note/0: type 'poem' has no label"):
        made()
    jsonl.write("data/filtered.jsonl", [source(1)])
    (folder / "wordings.md").write_text("写$lable\n")
    with pytest.raises(Refusal, match=r"wordings.md:1: unknown slot \$lable; did you mean \$label"):
        made()
    (folder / "wordings.md").write_text("\n")
    with pytest.raises(Refusal, match=r"wordings.md: holds no wording"):
        made()
    (folder / "user.md").unlink()
    with pytest.raises(Refusal, match="no such prompt file"):
        made()
    jsonl.write("data/filtered.jsonl", [])
    (folder / "user.md").write_text("$instruction")
    (folder / "wordings.md").write_text("x\n")
    with pytest.raises(Refusal, match="no record is left"):
        made()
