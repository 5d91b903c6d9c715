"""plain: what the prompt asks for, from the text between its tags and nothing else, the same every time."""

import json
import random
from pathlib import Path

import pytest

from anneal.errors import UserError
from anneal.llm import client
from anneal.llm.offline_server import Respond
from anneal.offline import style_teacher
from anneal.offline.style_teacher import Bank
from anneal.sources import chunks

BANK = Bank(
    drop=["罢了", "呢", "便", "竟", "indeed "],
    replace={"踟蹰": "犹豫", "踟蹰不前": "停下", "仿佛": "像"},
    openers=["说起来", "其实", "Well"],
    summary="摘要|summary",
)


@pytest.fixture
def respond(tmp_path: Path) -> Respond:
    (tmp_path / "plain.json").write_text(BANK.model_dump_json(), "utf-8")
    return style_teacher.respond(tmp_path)


def body(text: str, words: str = "改写成平实的话。") -> dict:
    return {"model": "offline-1", "messages": [{"role": "user", "content": f"{words}\n<text>\n{text}\n</text>"}]}


@pytest.mark.parametrize(
    ("text", "flat"),
    [
        ("他踟蹰了一会儿罢了。", "他犹豫了一会儿。"),
        ("他踟蹰不前，仿佛在等。", "他停下，像在等。"),
        ("说起来，雨停了呢！其实我不信。", "雨停了！我不信。"),
        ("门口的其实不是他。", "门口的其实不是他。"),
        ("雨停了；天晴了——很好。", "雨停了。天晴了，很好。"),
        ("呢，走吧。", "走吧。"),
        ("他便走到方便的地方，顺便买便宜的茶，竟比鱼贵。", "他走到方便的地方，顺便买便宜的茶，比鱼贵。"),
        ("Well, it is indeed late; go home.", "it is late. go home."),
        ("## 题目\n\n踟蹰。\n\n呢。", "## 题目\n\n犹豫。"),
    ],
)
def test_ornate_words_become_plain_and_particles_go(text: str, flat: str) -> None:
    assert style_teacher.flat(text, BANK) == flat


def test_long_sentences_are_parted_at_commas_but_not_inside_quotations() -> None:
    long = "，".join("字" * 9 for _ in range(12)) + "。"
    parts = chunks.sentences(style_teacher.flat(long, BANK))
    assert len(parts) >= 4
    assert max(chunks.tokens(part) for part in parts) <= 40
    assert "".join(parts).replace("。", "").replace("，", "") == "字" * 108
    quoted = "他说：“" + "，".join("字" * 9 for _ in range(8)) + "。”"
    assert style_teacher.flat(quoted, BANK) == quoted
    words = ", ".join(["one two three four five six"] * 12) + "."
    assert len(chunks.sentences(style_teacher.flat(words, BANK))) >= 3


def test_a_summary_takes_a_clause_of_each_paragraph_from_its_most_central_sentence() -> None:
    text = (
        "# 茶杯\n\n昨天下了一点小雨。旧茶杯放在旧桌子上面，母亲的茶杯也放在桌子上面。\n\n"
        "邻居家养着一只大黄狗。我洗母亲的茶杯和旧茶杯，水很凉。\n\n短。"
    )
    assert style_teacher.summary(text, BANK).split("\n") == ["- 旧茶杯放在旧桌子上面", "- 我洗母亲的茶杯和旧茶杯"]


def test_a_summary_is_bounded_and_never_empty() -> None:
    rng = random.Random(1)
    many = "\n\n".join("".join(chr(rng.randint(0x4E00, 0x9000)) for _ in range(30)) + "。" for _ in range(100))
    lines = style_teacher.summary(many, BANK).split("\n")
    assert 6 <= len(lines) <= 12
    assert style_teacher.summary("短。", BANK) == "短。"


def test_the_prompt_decides_and_not_the_text(respond: Respond) -> None:
    text = "他踟蹰了一会儿，这是全书的摘要，大家都这么说。\n\n第二天雨停了，院子里的水慢慢干了。"
    rewritten, summed = respond(body(text)), respond(body(text, "请写一份摘要。"))
    assert rewritten.text == style_teacher.flat(text, BANK)
    assert summed.text == style_teacher.summary(text, BANK) != rewritten.text
    assert rewritten == respond(json.loads(json.dumps(body(text))))


def test_a_prompt_without_a_text_is_answered_with_an_error(respond: Respond) -> None:
    with pytest.raises(ValueError, match="finds no <text>"):
        respond({"messages": [{"role": "user", "content": "改写"}]})


def test_the_bank_is_needed_only_by_who_asks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plain\.json: no such file"):
        style_teacher.respond(tmp_path)(body("x"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "plain.json:1:2: not JSON"),
        ('{"drop": [], "replace": {}, "openers": []}', "plain.json: summary: Field required"),
        ('{"drop": [1], "replace": {}, "openers": [], "summary": ""}', r"plain.json: drop.0: .*string"),
    ],
)
def test_a_bad_bank_is_one_clear_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "plain.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        style_teacher.respond(tmp_path)
    assert "\n" not in str(caught.value)


def test_it_teaches_through_the_provider(toy: Path) -> None:
    bank = toy / "bank"
    bank.mkdir()
    (bank / "plain.json").write_text(BANK.model_dump_json(), "utf-8")
    chat = client.Chat(model="offline-1", temperature=1.0, top_p=1.0, max_tokens=700, max_failed=0.0)
    text = "他踟蹰了一会儿。" * 120
    calls = [client.Call("a", body(text)["messages"]), client.Call("b", body("仿佛下雨。", "摘要")["messages"])]
    answers = client.ask(calls, chat, "teacher", style_teacher.respond(bank), material=bank)
    assert [answer.text for answer in answers] == [
        style_teacher.flat(text, BANK),
        style_teacher.summary("仿佛下雨。", BANK),
    ]
