"""Formatting: rows that TRL takes as they are, prompts that stay put, and nothing dropped without a number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.dataset import chat_template
from anneal.errors import UserError
from stages import format as stage
from tests import micro

TYPES = {"note": "笔记", "advert": "广告"}
POLICY = stage.Format(max_length=200, over_length="drop", unmaskable="drop", tasks={})


def source(number: int, text: str = "今天很好。") -> dict[str, Any]:
    facts = {
        "name": f"产品{number}",
        "effects": ["保湿", "修护"],
        "ingredients": [{"name": "甘油", "concentration": "5%"}],
    }
    return {
        "id": f"p{number:03}/note/0",
        "item": f"p{number:03}",
        "type": "note",
        "facts": facts,
        "text": text,
        "log_prob": -1.0,
    }


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
    files.write("data/filtered.jsonl", records)
    files.write("data/rejected.jsonl", [{**r, "kind": "weak", "text": "不好。", "changes": []} for r in records])
    return toy


def made(**changed: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
    stage.main(seed=42, recipe="own", types=TYPES, format=POLICY.model_copy(update=changed))
    metrics = json.loads(Path("reports/metrics/format.json").read_text("utf-8"))
    return files.read("data/formatted.jsonl"), files.read("data/pairs.jsonl"), metrics


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


def test_wordings_are_shared_out_evenly_and_a_new_record_moves_few_others(checkout: Path) -> None:
    first, _, metrics = made()
    used = Counter(row["prompt"][1]["content"].splitlines()[0].replace(row["facts"]["name"], "X") for row in first)
    assert set(used) == {"写一篇笔记。", "请写笔记", "给X 写笔记。"}
    assert sorted(used.values()) == [13, 13, 14]
    assert metrics["wordings"] == {
        "line_1": round(used["写一篇笔记。"] / 40, 6),
        "line_2": used["请写笔记"] / 40,
        "line_3": round(used["给X 写笔记。"] / 40, 6),
    }
    files.write("data/filtered.jsonl", [source(number) for number in (99, *range(40))])
    again, _, _ = made()
    moved = sum(row != old for row, old in zip(again[1:], first, strict=True))
    assert moved <= 2, "one at each of the two borders"
    stage.main(seed=7, recipe="own", types=TYPES, format=POLICY)
    assert sum(row != old for row, old in zip(files.read("data/formatted.jsonl")[1:], first, strict=True)) > 15


def test_a_lone_instruction_slot_passes_on_the_records_own(checkout: Path) -> None:
    (checkout / "prompts/own/format/wordings.md").write_text("$instruction\n")
    records = [source(number) for number in range(3)]
    told = ["续写这段话。", "价格是 $name 和 $$5，$gone", "第一行\n第二行"]
    for record, words in zip(records, told, strict=True):
        record["facts"]["instruction"] = words
    files.write("data/filtered.jsonl", records)
    rows, _, metrics = made()
    for row, words in zip(rows, told, strict=True):
        assert row["prompt"][1]["content"].startswith(words + "\n\n产品："), "a slot inside a fact is words"
    assert not any("one wording" in line for line in metrics["budget"]["warnings"])
    for record in records:
        record["facts"]["instruction"] = "续写。"
    files.write("data/filtered.jsonl", records)
    assert any("one wording" in line for line in made()[2]["budget"]["warnings"])
    files.write("data/filtered.jsonl", [source(1)])
    with pytest.raises(UserError, match=r"wordings.md:1: unknown slot \$instruction"):
        made()


def test_a_further_task_adds_rows_of_the_records_that_have_what_it_needs(checkout: Path) -> None:
    folder = checkout / "prompts/own/format"
    (folder / "explain.md").write_text("解释“$text”。\n用白话说“$text”。\n")
    (folder / "style.md").write_text("以$style的口吻写。\n")
    records = [source(number, f"第{number}篇。") for number in range(10)]
    for number in range(6):
        records[number]["facts"]["plain"] = f"说的是$name{number}。"
    records[6]["facts"] |= {"plain": " ", "style": ""}
    records[7]["facts"]["style"] = "豪放"
    files.write("data/filtered.jsonl", records)
    tasks = {"explain": {"wordings": "explain", "target": "plain"}, "style": {"wordings": "style", "target": "text"}}
    main_rows, _, _ = made()
    files.write("data/rejected.jsonl", [{**r, "kind": "weak", "text": "不好。"} for r in records])
    policy = stage.Format.model_validate({**POLICY.model_dump(), "tasks": tasks})
    stage.main(seed=42, recipe="own", types={**TYPES, "explain": "解释"}, format=policy)
    rows, pairs = files.read("data/formatted.jsonl"), files.read("data/pairs.jsonl")
    assert rows[:10] == main_rows, "the rows of the main task stay as they are"
    extra = rows[10:]
    assert [row["id"] for row in extra] == [f"p00{n}/note/0/explain" for n in range(6)] + ["p007/note/0/style"]
    assert len({row["id"] for row in rows}) == len(rows) == 17
    assert {row["type"] for row in extra[:6]} == {"explain"}
    assert extra[6]["type"] == "note", "a task that is no type keeps that of the record"
    for number, row in enumerate(extra[:6]):
        assert row["item"] == f"p00{number}"
        assert row["completion"][0]["content"] == f"说的是$name{number}。"
        user = row["prompt"][1]["content"]
        assert f"“第{number}篇。”" in user
        assert "说的是" not in user, "the answer is no slot of its own prompt"
    assert extra[6]["prompt"][1]["content"].startswith("以豪放的口吻写。")
    assert extra[6]["completion"][0]["content"] == "第7篇。"
    metrics = json.loads(Path("reports/metrics/format.json").read_text("utf-8"))
    assert metrics["tasks"]["explain"] == {"rows": 6, "wordings": {"line_1": 0.5, "line_2": 0.5}}
    assert metrics["tasks"]["style"] == {"rows": 1, "wordings": {"line_1": 1.0}}
    assert {pair["id"] for pair in pairs} == {row["id"] for row in main_rows}
    (folder / "explain.md").write_text("$plain 是什么？\n")
    with pytest.raises(UserError, match=r"format.tasks.explain: no record has the fact 'plain' and every slot of"):
        stage.main(seed=42, recipe="own", types=TYPES, format=policy)


def test_the_budget_adds_up_and_the_estimate_is_told_but_not_written(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _, metrics = made()
    tokenizer = micro.tokenizer()
    encoded = [chat_template.encode(tokenizer, row["prompt"], row["completion"]) for row in rows]
    fields = metrics["budget"]["fields"]
    assert fields["completion"] == sum(len(row.ids) - row.prompt for row in encoded)
    assert fields["total"] == sum(len(row.ids) for row in encoded)
    assert fields["system"] == 40 * len(tokenizer("你写笔记。")["input_ids"])
    assert fields["user"] == sum(len(tokenizer(row["prompt"][1]["content"])["input_ids"]) for row in rows)
    assert sum(value for name, value in fields.items() if name != "total") == fields["total"]
    assert metrics["budget"]["repeated"] == 0
    said = capsys.readouterr().err
    assert f"{fields['total']} tokens, about" in said
    assert "few tokens" in said
    assert "tokens/s" not in Path("reports/metrics/format.json").read_text("utf-8")


def test_token_statistics_are_those_of_the_rows(checkout: Path) -> None:
    rows, _, metrics = made()
    tokenizer = micro.tokenizer()
    encoded = [chat_template.encode(tokenizer, row["prompt"], row["completion"]) for row in rows]
    prompts, totals = sorted(row.prompt for row in encoded), sorted(len(row.ids) for row in encoded)
    assert metrics["tokens"]["prompt"]["p50"] == prompts[19]
    assert metrics["tokens"]["total"]["p90"] == totals[35]
    assert metrics["tokens"]["total"]["max"] == totals[-1]
    assert metrics["tokens"]["completion"]["max"] == len(tokenizer("今天很好。")["input_ids"]) + 1


def test_a_row_that_is_too_long_is_dropped_with_its_pair_or_fails_but_is_never_cut(checkout: Path) -> None:
    records = [source(number, "今天很好。" * (100 if number == 5 else 1)) for number in range(40)]
    files.write("data/filtered.jsonl", records)
    rejected = [{**r, "kind": "weak", "text": "不好。" * (100 if n == 6 else 1)} for n, r in enumerate(records)]
    files.write("data/rejected.jsonl", rejected)
    rows, pairs, metrics = made()
    assert "p005/note/0" not in {row["id"] for row in rows}
    assert {row["id"] for row in rows} - {pair["id"] for pair in pairs} == {"p006/note/0"}
    assert (metrics["records"], metrics["rows"], metrics["over_length"]["rows"]) == (40, 39, 1)
    assert metrics["over_length"]["share"] == 1 / 40
    assert metrics["pairs"] == {"records": 40, "rows": 38, "over_length": 1, "unmaskable": 0}
    assert all(row["completion"][0]["content"] == "今天很好。" for row in rows)
    with pytest.raises(UserError, match=r"data/filtered.jsonl: 1 rows are longer than .* first p005/note/0"):
        made(over_length="fail")
    with pytest.raises(UserError, match=r"40 rows are longer than format.max_length 20 tokens"):
        made(max_length=20)


def test_a_row_that_cannot_be_masked_is_counted_with_its_reason(checkout: Path) -> None:
    template = checkout / "models/base/chat_template.jinja"
    refusing = (
        "{% for m in messages %}{% if 'BAD' in m.content %}{{ raise_exception('no BAD') }}{% endif %}{% endfor %}"
    )
    template.write_text(refusing + template.read_text())
    files.write("data/filtered.jsonl", [source(number, "BAD" if number < 2 else "好。") for number in range(40)])
    rows, _, metrics = made()
    assert len(rows) == 38
    assert metrics["masks"]["refused"] == {"the chat template refuses the conversation: no BAD": 2}
    assert metrics["masks"]["masked"] == metrics["masks"]["stop_learnt"] == 38
    with pytest.raises(UserError, match=r"2 rows cannot be masked, first p000/note/0: 2 x the chat template refuses"):
        made(unmaskable="fail")
    files.write("data/filtered.jsonl", [source(number, "BAD") for number in range(3)])
    with pytest.raises(UserError, match="3 rows cannot be masked"):
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
    with pytest.raises(UserError, match="models/base has positions for 512 tokens only"):
        made(max_length=513)
    files.write("data/filtered.jsonl", [{**source(1), "type": "poem"}])
    with pytest.raises(UserError, match=r"p001/note/0: type 'poem' has no label"):
        made()
    files.write("data/filtered.jsonl", [source(1)])
    (folder / "wordings.md").write_text("写$lable\n")
    with pytest.raises(UserError, match=r"wordings.md:1: unknown slot \$lable; did you mean \$label"):
        made()
    (folder / "wordings.md").write_text("\n")
    with pytest.raises(UserError, match=r"wordings.md: holds no wording"):
        made()
    (folder / "user.md").unlink()
    with pytest.raises(UserError, match="no such prompt file"):
        made()
    files.write("data/filtered.jsonl", [])
    (folder / "user.md").write_text("$instruction")
    (folder / "wordings.md").write_text("x\n")
    with pytest.raises(UserError, match="no record is left"):
        made()
