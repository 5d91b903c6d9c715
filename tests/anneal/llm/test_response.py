"""The parser of replies: answers, refusals and broken bodies."""

import json

import pytest

from anneal.llm import response

REFUSED = [
    "很抱歉，我无法撰写这类宣传内容。",
    "很抱歉，我无法完成这个请求。",
    "对不起，作为一个人工智能助手，我不能为您提供医疗建议。",
    "抱歉，我没有办法继续生成这段文字。",
    "作为一个AI语言模型，我无法提供这样的内容。",
    "我无法提供关于这款产品的疗效承诺。",
    "我不能协助撰写虚假宣传。",
    "I'm sorry, but I can't assist with that request.",
    "I’m sorry, I can’t help with that.",
    "I am very sorry, but I cannot provide that.",
    "Sorry, I can't write this.",
    "I cannot create content that makes medical claims.",
    "I'm unable to help with this.",
    "As an AI language model, I cannot generate this text.",
    "Unfortunately, I won't produce fake reviews.",
]
TOLD = [
    "抱歉，我又要夸它了：敏感肌也能放心用。",
    "我无法想象没有它的冬天。",
    "我不能没有这支精华。",
    "对不起钱包，这次真的忍不住。",
    "很遗憾，屏障受损后不会一夜恢复。",
    "医生让我看配方：泛醇、角鲨烷。我无法再忍受干燥了。",
    "作为配方师，我建议先在耳后试用。",
    "使用前：皮肤反复泛红。很抱歉，我无法撰写这类内容的那位编辑离职了。",
    '{"relevance": {"reason": "I cannot provide a higher score", "score": 3}}',
    "I'm sorry for every cream I used before this one.",
    "I can't stop recommending this serum.",
    "Sorry, other creams: this one stays.",
    "As an AI researcher I read labels.",
]


def body(content: object, finish: str | None = "stop", **message: object) -> str:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


@pytest.mark.parametrize("text", REFUSED)
def test_a_refusal_is_recognised(text: str) -> None:
    with pytest.raises(response.Unusable) as caught:
        response.text(body(text))
    assert caught.value.kind == "refusal"


@pytest.mark.parametrize("text", TOLD)
def test_a_text_that_resembles_a_refusal_is_an_answer(text: str) -> None:
    assert response.text(body(text)) == text


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (body("文", "length"), "length"),
        (body("文", "max_tokens"), "length"),
        (body("", "content_filter"), "content_filter"),
        (body("文", "SAFETY"), "content_filter"),
        (body("文", "error"), "http"),
        (body(""), "empty"),
        (body(" \n\t"), "empty"),
        (body(None), "empty"),
        (body(None, refusal="I won't."), "refusal"),
        (body(["parts"]), "http"),
        ("", "http"),
        ("<html>", "http"),
        ('{"choices": [{"mess', "http"),
        ('{"choices": []}', "http"),
        ('{"error": {"message": "upstream"}}', "http"),
        ("[]", "http"),
    ],
)
def test_an_unusable_reply_has_its_kind(raw: str, kind: str) -> None:
    with pytest.raises(response.Unusable) as caught:
        response.text(raw)
    assert caught.value.kind == kind
    assert str(caught.value)


@pytest.mark.parametrize("finish", ["stop", None, "eos", "end_turn"])
def test_other_finish_reasons_are_answers(finish: str | None) -> None:
    assert response.text(body("好", finish)) == "好"


def test_tokens_are_those_of_the_usage() -> None:
    assert response.tokens(body("好")) == (7, 3)
    assert response.tokens('{"choices": []}') == (0, 0)
    assert response.tokens('{"usage": {"prompt_tokens": null}}') == (0, 0)


def test_a_repeated_key_is_refused() -> None:
    assert response.strict('{"a": 1, "b": {"a": 2}}') == {"a": 1, "b": {"a": 2}}
    with pytest.raises(ValueError, match="a key stands twice: score, score"):
        response.strict('{"a": {"score": 1, "score": 5}}')
