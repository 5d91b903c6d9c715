"""promises: a claim is found in any clause, and a clause that denies it or a word of the sheet is none."""

import re

import pytest

from anneal.checks import facts
from tests import goldens

OWN = re.compile("红没药醇|一夜霜")
PATTERNS = ["^[^不没]*(一夜|立刻)", "^[^不没]*永久", "退款"]


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("配方温和，不说一夜见效。", []),
        ("配方温和，一夜见效。", ["一夜"]),
        ("不说大话，立刻见效。", ["立刻"]),
        ("从不许诺：立刻见效", ["立刻"]),
        ("一夜见效，立刻见效，永久有效", ["一夜", "永久"]),
        ("无效不收钱，不好就退款", ["退款"]),
        ("一夜霜温和。", []),
        ("红没药醇永久有效", ["_永久"]),
        ("没有永久的事", []),
    ],
)
def test_each_pattern_is_found_once_and_no_denied_promise(text: str, hits: list[str]) -> None:
    assert facts.found(text, OWN, PATTERNS) == hits


def test_no_patterns_find_nothing() -> None:
    assert facts.found("一夜见效，永久有效", OWN, []) == []


@pytest.mark.parametrize(
    ("text", "promised"),
    [
        # A word of denial somewhere before is none: a model that is rewarded would learn to write it.
        ("不到三天就见效", True),
        ("不刺激还能一夜变白", True),
        ("不分肤质人人都适合", True),
        ("差不多一夜变白", True),
        ("不含酒精立刻舒缓泛红", True),
        ("不吹不黑全网第一", True),
        ("不得不说一夜变白", True),
        ("最好先在耳后试用", False),
        ("若感到刺痛请立即冲洗", False),
        ("护肤并非一夜之功", False),
        ("无法保证人人有效", False),
        ("大家都知道", False),
        ("早上就涂防晒", False),
        ("不会马上见到变化", False),
    ],
)
def test_the_patterns_of_the_main_recipe(text: str, promised: bool) -> None:
    assert bool(facts.found(text, OWN, goldens.RULES.exaggerated.searched)) is promised
