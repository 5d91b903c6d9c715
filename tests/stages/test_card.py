"""card: what the rules judge finds of each defect, and what the card says of judges that are known to be bad."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.errors import UserError
from anneal.judging import detection, grading, injected_defects, rubric
from anneal.llm import request
from anneal.offline import rule_judge, stub_judges
from stages import card, judge
from tests import goldens
from tests.conftest import ROOT

TEST = goldens.records(0, 4)
KINDS = ("weak", "exaggerated")
OFFLINE = request.Chat(model="offline-1", temperature=1.0, top_p=1.0, max_tokens=700, max_failed=0.02)


def settings(model: str = "offline-rules-1", **more: Any) -> grading.Judge:
    given = {
        "model": model,
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 1200,
        "max_failed": 0.05,
        "repeats": {"share": 0.2, "times": 3},
        "controls": 5,
        "samples": 0,
        "null_text": "这是一篇非常优秀的文案。",
    }
    return grading.Judge.model_validate(given | more)


def run(by: grading.Judge, items: int = 36, again: bool = True, **others: str) -> tuple[list[Any], dict[str, Any]]:
    """The card of a judge in the present folder: teacher and base are models of these names."""
    common: dict[str, Any] = {"recipe": "brand", "rules": goldens.RULES, "seed": 42, "types": goldens.TYPES}
    if again:
        judge.main("golden", judge=by, **common)
    teacher = OFFLINE.model_copy(update={"model": others.get("teacher", "offline-1")})
    base: dict[str, str | None] = {"name": others.get("base", "tiny"), "revision": None}
    card.main(card=card.Card(items=items), judge=by, model=base, teacher=teacher, **common)
    return files.read("data/card.jsonl"), json.loads(Path("reports/metrics/card.json").read_text("utf-8"))


def checkout(folder: Path, test: list[dict[str, Any]]) -> Path:
    (folder / "prompts").symlink_to(ROOT / "prompts")
    (folder / "data").mkdir()
    (folder / "data/raw").symlink_to(ROOT / "data/raw")
    files.write("data/test.jsonl", test)
    rows = []
    for k, r in enumerate(test):
        text = goldens.written(r["facts"], r["type"], stage=f"reject/{KINDS[k % 2]}", text=goldens.text(r))
        rows.append(
            {key: r[key] for key in ("id", "item", "type")} | {"kind": KINDS[k % 2], "text": text, "changes": []}
        )
    files.write("data/rejected.jsonl", rows)
    return folder


@pytest.fixture
def folder(toy: Path) -> Path:
    return checkout(toy, TEST[::2])


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, Any], list[Any]]:
    """The card of the rules judge, made once, and its golden judgements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("card"))
        patch.delenv("DVC_ROOT", raising=False)
        checkout(Path(), TEST)
        rows, numbers = run(settings())
        return rows, numbers, files.read("data/judgements/golden.jsonl")


def test_every_text_is_judged_and_told(rules: tuple[list[Any], dict[str, Any], list[Any]], tmp_path: Path) -> None:
    rows, numbers, golden = rules
    wanted = {**dict.fromkeys(KINDS, 18), **dict.fromkeys(injected_defects.PLANTERS, 36)}
    assert Counter(row["defect"] for row in rows) == wanted
    assert {name: each["n"] for name, each in numbers["defects"].items()} == wanted
    assert list(numbers["left_out"]) == ["fake"]
    assert {row["outcome"] for row in rows} == {"ok"}
    assert all(row["reply"] and row["request"] and row["text"] for row in rows)
    assert numbers["judge_ids"].keys() == {"ecommerce", "paid_ad", "social_media"}
    assert {row["judge_id"] for row in golden} == set(numbers["judge_ids"].values())
    assert numbers["score_kind"] == "rule score"
    assert (numbers["family"], numbers["reason"]) == ([], "")
    assert numbers["repeats"]["n"] == 7
    assert numbers["flips"] is None
    assert "prefer.json" in numbers["flips_reason"]
    # Whoever holds the rows can compute every figure again.
    files.write_json(tmp_path / "again.json", detection.summary(rows, golden, TEST))
    again = files.read_json(tmp_path / "again.json")
    assert again == {key: numbers[key] for key in again}


def test_the_rules_judge_finds_what_its_words_can_find(rules: tuple[list[Any], dict[str, Any], list[Any]]) -> None:
    _, numbers, golden = rules
    found = {name: each["lower"]["mean"] for name, each in numbers["defects"].items()}
    named = ("weak", "exaggerated", "truncated", "wrong_type", "other_item", "null", "stuffed", "fact_swap")
    assert {name: found[name] for name in named if found[name] < 0.95} == {}
    assert found["looped"] >= 0.99
    assert sum(detection.flagged(r) for r in golden) / len(golden) <= 0.02
    assert numbers["sound"]["unflagged"]["mean"] >= 0.98
    assert numbers["over_rejected"] | {"low": 0} == numbers["over_rejected"] | {"mean": 1.0, "n": 36, "low": 0}


def test_a_swapped_ingredient_is_flagged_and_a_sound_text_is_not() -> None:
    only = goldens.RULES.model_copy(update={"also": []})
    sheets, bank = (
        rubric.folder(ROOT / "prompts/brand/judge", goldens.RULES),
        injected_defects.bank(ROOT / "data/raw/brand/planted"),
    )
    context = injected_defects.Context(
        bank, only, goldens.KNOWN, dict.fromkeys(goldens.TYPES, ()), "", {"wrong_type": {}, "other_item": {}}
    )
    swaps = injected_defects.plant(TEST, context, 42)["fact_swap"]
    found: dict[str, list[bool]] = {"sound": [], "swapped": []}
    for r in TEST:
        sheet = sheets[r["type"]]
        for name, text in (("sound", goldens.text(r)), ("swapped", swaps[r["id"]].text)):
            asked = sheet.messages(r["type"], goldens.TYPES[r["type"]], r["facts"], goldens.KNOWN, text)
            verdict = sheet.parse(rule_judge.respond({"messages": asked}).text)
            found[name].append(detection.flagged({**verdict, "score": sheet.total(verdict)}))
    assert {name: len(flags) for name, flags in found.items()} == {"sound": 36, "swapped": 36}
    assert sum(found["swapped"]) / 36 >= 0.95
    assert sum(found["sound"]) / 36 <= 0.02


def test_padding_stuffing_and_break_outs_never_win(rules: tuple[list[Any], dict[str, Any], list[Any]]) -> None:
    rows, numbers, golden = rules
    own = {row["id"]: row["score"] for row in golden}
    for name in ("padded", "stuffed", "break_out"):
        part = [row for row in rows if row["defect"] == name]
        assert len(part) == 36
        assert [row["id"] for row in part if row["score"] > own[row["id"]]] == []
        assert numbers["defects"][name]["higher"]["mean"] == 0


def test_what_it_cannot_see_is_said(rules: tuple[list[Any], dict[str, Any], list[Any]], capsys: Any) -> None:
    rows, numbers, _ = rules
    # The figures of words that no list holds are printed and not demanded: they are what the card is for.
    with capsys.disabled():
        for name in injected_defects.HELD_OUT:
            each = numbers["defects"][name]
            print(f"\n{name}: {each['lower']['mean']:.2f} found, {each['higher']['mean']:.2f} above", end="")
    low = [name for name, each in numbers["defects"].items() if each["lower"]["mean"] < 0.5]
    assert "added_unknown" in low
    assert all(any(line.startswith(f"{name}: ") for line in numbers["blind_to"]) for name in low)
    assert sum(row["defect"] == "added_unknown" for row in rows) == 36


@pytest.mark.parametrize("name", ["constant", "first"])
def test_a_judge_that_scores_all_alike_finds_nothing(folder: Path, name: str) -> None:
    _, numbers = run(settings(f"offline-{name}-1"), 4)
    assert {each["lower"]["mean"] for each in numbers["defects"].values()} == {0.0}
    assert len(numbers["blind_to"]) == len(numbers["defects"]) == 15
    assert "padded: 0 of 4 found" in numbers["blind_to"]
    assert numbers["over_rejected"]["mean"] == 0.5
    assert numbers["length"]["reason"] == "no variance: scores of a type are all the same"
    assert numbers["repeats"]["reason"] == "no variance: every score is the same"


def test_a_judge_of_length_rewards_padding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub_judges, "LONG", 30)
    _, numbers = run(settings("offline-longest-1"), 9)
    found = numbers["defects"]
    # All but a text that is at the top of the scale already.
    assert found["looped"]["higher"]["mean"] == found["padded"]["higher"]["mean"] == pytest.approx(8 / 9, abs=1e-6)
    assert found["truncated"]["lower"]["mean"] == 1.0
    assert "padded: 8 of 9 score above their own sound text" in numbers["blind_to"]
    assert numbers["length"]["slope"] > 0.8
    assert numbers["length"]["rho"] > 0.5


def test_a_noisy_judge_flags_sound_texts_and_does_not_repeat_itself(folder: Path) -> None:
    _, numbers = run(settings("offline-noisy-1"), 9)
    assert numbers["sound"]["unflagged"]["mean"] < 0.8
    assert numbers["repeats"]["sd"] > 0.5
    assert numbers["length"]["low"] < 0 < numbers["length"]["high"]


def test_garbage_makes_no_card_unless_all_may_fail(folder: Path) -> None:
    with pytest.raises(UserError, match="max_failed"):
        run(settings("offline-garbage-1"), 2)
    assert not Path("data/card.jsonl").exists()
    rows, numbers = run(settings("offline-garbage-1", max_failed=1.0), 2)
    assert {row["outcome"] for row in rows} == {"parse_error"}
    assert {each["lower"]["mean"] for each in numbers["defects"].values()} == {None}
    assert numbers["blind_to"] == []
    assert numbers["sound"]["unflagged"]["n"] == 0


def test_one_family_is_warned_of(folder: Path) -> None:
    names = ("deepseek-ai/DeepSeek-V3", "Qwen/Qwen2.5-7B", "gpt-4o", "offline-rules-1")
    assert [card.family(name) for name in names] == ["deepseek", "qwen", "gpt", ""]
    lines = card.related("deepseek-chat", {"teacher": "deepseek-ai/DeepSeek-V3", "base": "Qwen/Qwen2.5-7B"})
    assert lines == [
        "judge and teacher are both deepseek: a model favours its own words (published +10% to +25% win rate)"
    ]
    assert card.related("offline-rules-1", {"teacher": "offline-1", "base": "tiny"}) == []
    assert [line[:23] for line in card.related("qwen-max", {"teacher": "qwen-plus", "base": "Qwen2.5"})] == [
        "judge and teacher are b",
        "judge and base are both",
    ]
    _, numbers = run(settings("offline-constant-1"), 1, base="constant", teacher="constant")
    assert numbers["family"] == [], "a program has no family"


def test_no_items_make_no_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, numbers = run(settings(), 0)
    assert (rows, numbers["defects"], numbers["sound"]["n"]) == ([], {}, 0)
    assert numbers["reason"] == "no card: card.items is 0"
    assert capsys.readouterr().out.strip() == numbers["reason"]


def test_scores_of_another_judge_are_refused(folder: Path) -> None:
    run(settings("offline-constant-1"), 1)
    with pytest.raises(UserError, match=r"golden\.jsonl: scores of another judge"):
        run(settings(), 1, again=False)


def test_the_same_bytes_again_and_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = run(settings(), 3)
    paths = [Path("data/card.jsonl"), Path("reports/metrics/card.json")]
    before, said = [path.read_bytes() for path in paths], capsys.readouterr().out
    run(settings(), 3)
    assert [path.read_bytes() for path in paths] == before
    assert "| added_unknown (words held out) | 3 |" in said
    # More texts are more of the same: those of a small card stand in a large one.
    more, _ = run(settings(), 5)
    key = [(row["defect"], row["id"], row["text"]) for row in more]
    assert all((row["defect"], row["id"], row["text"]) in key for row in rows)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("meta-llama/Meta-Llama-3-8B", "llama-3-70b"),
        ("THUDM/chatglm3-6b", "glm-4"),
        ("o3-mini", "gpt-4o"),
        ("chatgpt-4o-latest", "gpt-4o"),
        ("Qwen/Qwen2.5-7B-Instruct", "QwQ-32B"),
        ("deepseek-chat", "deepseek-r1"),
    ],
)
def test_relatives_are_known_by_more_than_their_first_word(one: str, other: str) -> None:
    assert card.family(one) == card.family(other) != ""


def test_a_word_that_is_no_name_makes_no_family() -> None:
    assert card.family("models/base") == card.family("base-7b") == card.family("offline-rules-1") == ""
    assert card.family("deepseek-chat") != card.family("gpt-4o")


def test_the_docs_show_the_card_in_git() -> None:
    numbers = json.loads((ROOT / "reports/metrics/card.json").read_text("utf-8"))
    rows = [line for line in detection.table(numbers).splitlines() if line.startswith("|")]
    page = (ROOT / "docs/judge.md").read_text("utf-8").splitlines()
    assert len(rows) >= 12
    assert [row for row in rows if row not in page] == []
