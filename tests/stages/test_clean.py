"""clean: rules first, then only the records that fail a check are asked about, and every version is kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.errors import UserError
from anneal.llm import client
from anneal.llm.offline_server import Reply
from anneal.offline import phrase_teacher
from stages import clean
from stages.clean import Clean, Round, Words
from tests.conftest import ROOT, recipe_values

WORDS = Words(openers=["以下是", "好的", "当然", "Here is"], closers=["希望这"], labels=["标题", "正文"])
CHAT = client.Chat(model="offline-1", temperature=1.0, top_p=1.0, max_tokens=50, max_failed=0.0)


def step(name: str = "tags", **changes: Any) -> Round:
    values: dict[str, Any] = {"types": ["*"], "reason": "有标签", "require": None, "forbid": None, "tail": None}
    return Round(name=name, **{**values, **changes})


def section(*rounds: Round, attempts: int = 3) -> Clean:
    rules = ["fences", "meta", "labels", "whitespace"]
    return Clean(max_attempts=attempts, rules=rules, words=WORDS, rounds=list(rounds))


def record(text: str, kind: str = "ad", name: str = "p1") -> dict[str, Any]:
    return {"id": f"{name}/{kind}/0", "item": name, "type": kind, "facts": {"name": "面霜"}, "text": text}


@pytest.mark.parametrize(
    ("text", "tidied", "rules"),
    [
        ("```\n好文。\n```", "好文。", ["fences", "whitespace"]),
        ("```markdown\n好文。\n第二段。\n```\n", "好文。\n第二段。", ["fences", "whitespace"]),
        ("以下是为您撰写的文案：\n\n好文。", "好文。", ["meta"]),
        ("好的！\n以下是文案：\n好文。", "好文。", ["meta"]),
        ("Here is the text:\n好文。", "好文。", ["meta"]),
        ("好文。\n\n希望这篇文案对您有帮助！", "好文。", ["meta"]),
        ("标题：秋天\n正文：好文。", "秋天\n好文。", ["labels"]),
        ("**标题**：秋天", "秋天", ["labels"]),
        ("【正文】\n好文。", "好文。", ["labels"]),
        ("  好文。  \n\n\n\n第二段。\t", "好文。\n\n第二段。", ["whitespace"]),
        ("\u3000\u3000好文。", "好文。", ["whitespace"]),
        (
            "```\n以下是文案：\n标题：秋天\n\n\n\n好文。\n```",
            "秋天\n\n好文。",
            ["fences", "meta", "labels", "whitespace"],
        ),
    ],
)
def test_rules_take_away_what_is_not_the_text(text: str, tidied: str, rules: list[str]) -> None:
    assert clean.tidy(text, section()) == (tidied, rules)
    assert clean.tidy(tidied, section()) == (tidied, []), "a second time changes nothing"


@pytest.mark.parametrize(
    "text",
    [
        "当然，敏感肌也能用。",
        "好的配方不必复杂，三种成分就够。",
        "好的成分只有一个：泛醇。" * 8,
        "以下是三个理由",
        "以下是三个理由：一，温和。",
        "使用前：皮肤干燥。使用后：稳定。",
        "【成分】泛醇\n【功效】保湿",
        "正文没有冒号的一行",
        "希望这个冬天不再干燥。",
        "# 一级标题不在词表里",
        "用`泛醇`保湿。",
    ],
)
def test_rules_leave_a_text_alone_that_only_begins_alike(text: str) -> None:
    assert clean.tidy(text, section()) == (text, [])


def test_rules_never_leave_nothing_and_run_in_the_order_of_the_params() -> None:
    assert clean.tidy("```\n```", section()) == ("```\n```", [])
    only = section().model_copy(update={"rules": ["labels"]})
    assert clean.tidy("```\n标题：秋天\n```", only) == ("```\n秋天\n```", ["labels"])
    assert set(clean.RULES) == set(clean.Clean.model_fields["rules"].annotation.__args__[0].__args__)


def test_a_check_says_what_it_found() -> None:
    assert step(forbid=r"#\S+").lacks("好文。#护肤 #成分党") == "有标签: #护肤 #成分党"
    assert step(require="我").lacks("好文。") == "有标签"
    assert step(require="我").lacks("我用过。") == ""
    # The last sentence, not the last line, and its end mark does not matter.
    tail = step(tail="点击")
    assert [tail.lacks(t) for t in ("点击了解。", "好文。点击了解", "好文！\n点击了解。\n")] == ["", "", ""]
    assert [tail.lacks(t) for t in ("点击了解。好文。", "点击了解\n好文", "")] == ["有标签"] * 3


def test_a_broken_pattern_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="valid regular expression"):
        step(forbid="(")


def play(texts: dict[str, str], replies: dict[str, list[str | None]], one: Round, attempts: int = 3) -> Any:
    """Play a round whose teacher says for each record what stands in `replies`, None for a failed call."""
    rows = [clean.begin(record(text, name=name), section()) for name, text in texts.items()]
    asked: list[tuple[str, str, int]] = []

    def ask(todo: list[tuple[dict[str, Any], str]], attempt: int) -> list[client.Answer]:
        answers = []
        for row, why in todo:
            asked.append((row["item"], why, attempt))
            said = replies[row["item"]].pop(0)
            answers.append(client.Answer(row["id"], "failed" if said is None else "ok", text=said or ""))
        return answers

    counts = clean.play(rows, one, section(one, attempts=attempts), ask)
    passed = {row["item"]: clean.close(row, section(one)) for row in rows}
    return counts, {row["item"]: row["versions"] for row in rows}, asked, passed


def test_only_what_fails_is_asked_and_every_version_says_why() -> None:
    counts, versions, asked, passed = play(
        {"a": "好文。", "b": "```\n好文。#甲\n```", "c": "好文。#乙"},
        {"b": ["以下是修改：\n好文。"], "c": ["好文。#丙", "好文。#丙", "好文。"]},
        step(forbid=r"#\S+"),
    )
    assert asked == [("b", "有标签: #甲", 0), ("c", "有标签: #乙", 0), ("c", "有标签: #丙", 1), ("c", "有标签: #丙", 2)]
    assert counts == {"asked": 2, "fixed": 2, "failing": 0}
    assert versions["a"] == [{"by": "generate", "text": "好文。", "reason": ""}]
    assert versions["b"] == [
        {"by": "generate", "text": "```\n好文。#甲\n```", "reason": "rules: fences, whitespace"},
        {"by": "rules", "text": "好文。#甲", "reason": "tags: 有标签: #甲"},
        {"by": "tags", "text": "好文。", "reason": ""},
    ]
    assert [v["reason"] for v in versions["c"]] == ["tags: 有标签: #乙", "tags: 有标签: #丙", "tags: 有标签: #丙", ""]
    assert passed == {"a": True, "b": True, "c": True}


def test_what_still_fails_is_kept_with_the_reason() -> None:
    counts, versions, asked, passed = play(
        {"a": "好文。#甲"}, {"a": ["好文。#乙", None]}, step(forbid=r"#\S+"), attempts=2
    )
    assert len(asked) == 2
    assert counts == {"asked": 1, "fixed": 0, "failing": 1}
    assert [(v["by"], v["text"], v["reason"]) for v in versions["a"]] == [
        ("generate", "好文。#甲", "tags: 有标签: #甲"),
        ("tags", "好文。#乙", "tags: 有标签: #乙"),
    ]
    assert passed == {"a": False}


def test_a_later_round_that_undoes_an_earlier_one_is_found() -> None:
    first, second = step("1", forbid="#"), step("2", tail="点击")
    row = clean.begin(record("好文。"), section())
    row["text"] = "好文。点击了解 #甲"
    row["versions"].append({"by": "2", "text": row["text"], "reason": ""})
    assert not clean.close(row, section(first, second))
    assert row["versions"][-1]["reason"] == "1: 有标签: #"


def test_a_round_is_for_its_types() -> None:
    rows = [clean.begin(record("好文。#甲", kind), section()) for kind in ("ad_a", "ad_b", "note")]
    seen: list[str] = []

    def ask(todo: list[tuple[dict[str, Any], str]], _attempt: int) -> list[client.Answer]:
        seen.extend(r["type"] for r, _ in todo)
        return [client.Answer(r["id"], "ok", text="好文。") for r, _ in todo]

    one = step(types=["ad_*"], forbid="#")
    assert clean.play(rows, one, section(one), ask) == {"asked": 2, "fixed": 2, "failing": 0}
    assert seen == ["ad_a", "ad_b"]
    assert [clean.close(row, section(one)) for row in rows] == [True, True, True]


@pytest.fixture
def recipe(toy: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A recipe of one round, and a teacher that takes the tag away; gives the requests that it got."""
    sent: list[dict[str, Any]] = []

    def respond(body: dict[str, Any]) -> Reply:
        sent.append(body)
        return Reply(body["messages"][-1]["content"].splitlines()[-1].split("#")[0])

    (toy / "prompts/r/clean").mkdir(parents=True)
    (toy / "prompts/r/clean/tags.md").write_text("$label|$name|$reason\n$text")
    (toy / "data/raw/r/offline").mkdir(parents=True)
    monkeypatch.setattr(phrase_teacher, "teacher", lambda _folder: respond)
    files.write("data/generated.jsonl", [record("好文。#甲", name="a"), record("好文。", name="b")])
    return sent


def test_the_stage_writes_the_last_version_and_all_before_it(recipe: list[dict[str, Any]]) -> None:
    one = section(step(forbid=r"#\S+"))
    for requests in (1, 0):
        recipe.clear()
        clean.main(one, "r", CHAT, {"ad": "广告"})
        assert len(recipe) == requests
        rows = files.read("data/cleaned.jsonl")
        assert [(r["id"], r["text"], len(r["versions"])) for r in rows] == [
            ("a/ad/0", "好文。", 2),
            ("b/ad/0", "好文。", 1),
        ]
        assert all(r["text"] == r["versions"][-1]["text"] for r in rows)
    metric = json.loads(Path("reports/metrics/clean.json").read_text())
    assert metric["rounds"] == {"tags": {"asked": 1, "fixed": 1, "failing": 0}}
    assert (metric["n"], metric["passed"], metric["failing"], metric["failed"]) == (2, 2, 0, {})
    assert metric["tokens"] == {"in": len("广告|面霜|有标签: #甲\n好文。#甲"), "out": 3}


def test_the_same_reply_again_is_another_request(recipe: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that changes nothing is asked as often as params say, and not answered from the ledger for ever."""

    def stubborn(body: dict[str, Any]) -> Reply:
        recipe.append(body)
        return Reply("好文。#甲")

    monkeypatch.setattr(phrase_teacher, "teacher", lambda _folder: stubborn)
    clean.main(section(step(forbid="#")), "r", CHAT, {"ad": "广告"})
    assert len(recipe) == 3
    row = files.read("data/cleaned.jsonl")[0]
    assert (len(row["versions"]), row["versions"][-1]["reason"]) == (4, "tags: 有标签: #")
    assert json.loads(Path("reports/metrics/clean.json").read_text())["failing"] == 1


def test_a_round_without_a_prompt_is_named(recipe: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"prompts/r/clean/other\.md: no such prompt file"):
        clean.main(section(step("other", forbid="#")), "r", CHAT, {"ad": "广告"})
    assert recipe == []


def test_the_shipped_recipe_puts_its_planted_faults_right(toy: Path) -> None:
    """The rounds of params.yaml, their prompts and the offline teacher agree about what is asked."""
    for part in ("prompts/brand/clean", "data/raw/brand/offline"):
        shutil.copytree(ROOT / part, toy / part)
    values = recipe_values("brand")
    sheet = files.read(ROOT / "data/raw/brand/products.jsonl")[0]
    facts = {key: value for key, value in sheet.items() if key != "id"}
    good = f"{facts['name']}含{facts['ingredients'][0]['name']}。"
    faults = {
        "paid_ad_bab": (f"{good}点击了解{facts['name']}。 #护肤 #成分党", "1_tags"),
        "paid_ad_cta": (good, "3_call_to_action"),
        "social_media_review": (good, "2_persona"),
        "ecommerce_long_form": (f"以下是为您撰写的文案：\n{good}", "rules"),
    }
    rows = [{**record(text, kind), "facts": facts} for kind, (text, _) in faults.items()]
    files.write("data/generated.jsonl", rows)
    clean.main(Clean(**values["clean"]), "brand", CHAT.model_copy(update={"max_tokens": 700}), values["types"])
    cleaned = {r["type"]: r["versions"] for r in files.read("data/cleaned.jsonl")}
    assert {kind: v[-1]["by"] for kind, v in cleaned.items()} == {kind: by for kind, (_, by) in faults.items()}
    assert [v[-1]["reason"] for v in cleaned.values()] == [""] * 4
    assert all(good in v[-1]["text"] for v in cleaned.values())
