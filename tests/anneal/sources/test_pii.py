"""pii: what is planted is found, what only looks like it is not, and no match is ever told."""

import json
import random
import re
import string
from collections import Counter
from pathlib import Path

import pytest

from anneal.sources import pii

DATA = Path(__file__).resolve().parents[3] / "shared/data"


def identity(rng: random.Random) -> str:
    """By the text of GB 11643: weights 7 9 10 5 8 4 2 1 6 3 7 9 10 5 8 4 2, the check by the remainder of 11."""
    date = f"{rng.randint(1930, 2015)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    body = f"{rng.choice(['110105', '440308', '620102'])}{date}{rng.randint(0, 999):03}"
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


def card(rng: random.Random) -> str:
    body = rng.choice(["622202", "436742", "51"]) + "".join(rng.choices(string.digits, k=13))
    body = body[: rng.choice([15, 18])]
    for last in string.digits:
        doubled = [int(d) * (2 - n % 2) for n, d in enumerate(reversed(body))]
        if (sum(d // 10 + d % 10 for d in doubled) + int(last)) % 10 == 0:
            return body + last
    raise AssertionError


def drawn(rng: random.Random, pool: str, size: int) -> str:
    return "".join(rng.choices(pool, k=size))


PLANTED = {
    "id_card": lambda rng: f"身份证{identity(rng)}。",
    "bank_card": lambda rng: rng.choice(["卡号{}，", "card {} ok"]).format(
        (lambda n: n if rng.random() < 0.5 else re.sub(r"(\d{4})(?=\d)", r"\1 ", n))(card(rng))
    ),
    "phone": lambda rng: rng.choice(["手机138{}。", "+86 159{}", "电话：010-{}", "0755-{}", "189{}或"]).format(
        drawn(rng, "23456789", 8)
    ),
    "email": lambda rng: f"mail {drawn(rng, string.ascii_lowercase, 6)}.{rng.randint(1, 99)}@mail.cn。",
    "wechat": lambda rng: rng.choice(
        ["微信号：{}", "微信 {}_1", "加V信{}9", "WeChat ID: {}", "wx:{}88", "微信是{}7"]
    ).format(drawn(rng, string.ascii_lowercase, 8)),
    "key": lambda rng: rng.choice(
        [
            f"sk-{drawn(rng, string.ascii_letters, 20)}7{drawn(rng, string.digits, 10)}",
            f"AKIA{drawn(rng, string.ascii_uppercase, 15)}4",
            f'api_key = "a1{drawn(rng, "abcdef" + string.digits, 30)}"',
            f"密钥：f0{drawn(rng, 'abcdef' + string.digits, 30)}",
            f"ghp_1{drawn(rng, string.ascii_letters, 35)}",
        ]
    ),
}


def planted(rng: random.Random, kind: str) -> str:
    words = "昨天 we bought 3 cups for 128.50, ISBN 978-7-02-000220-7, v1.2.3.4 于2021-03-04。"
    cut = rng.choice([0, 3, len(words)])
    return f"{words[:cut]} {PLANTED[kind](rng)} {words[cut:]}"


def test_all_that_is_planted_is_found_as_what_it_is() -> None:
    rng, found = random.Random(5), Counter()
    for kind in PLANTED:
        for _ in range(100):
            text = planted(rng, kind)
            assert pii.find(text) == {kind: 1}, text
            found[kind] += 1
    assert found == dict.fromkeys(PLANTED, 100)


@pytest.mark.parametrize(
    "text",
    [
        "价格 13800.00 元，共 1,380,013,800 人",
        "2020-10-01 12:30:00",
        "v1.2.3.4, 192.0.2.17",
        "ISBN 978-7-02-000220-7",
        "ISBN 9787020002207",
        "ISBN 7-02-000220-7",
        "1.13800138000",
        "13800138000.5",
        "1500000000000",
        "2020-12345678",
        "110105194912310020",
        "4111111111111112",
        "6222020000000000001",
        "微信是Tencent的产品",
        "微信 mini-program",
        "WeChat id verification",
        "WeChat 8.0.30",
        "token: internationalization",
        "密码：不要告诉别人",
        "a@b",
        "user@example.com",
        "@someone",
        "sk-learn",
        "the secret is well-known-to-everybody-here",
        "#0123456789abcdef0123",
        "3.14159265358979",
        "550e8400-e29b-41d4-a716-446655440000",
        "138 0013",
        "12345678901",
        "a13800138000",
        "2010-2020-2030",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert pii.find(text) == {}
    assert pii.mask(text, {}) == text


def test_one_digit_off_is_no_card_and_no_identity() -> None:
    rng, checked = random.Random(6), 0
    for make, kind in ((identity, "id_card"), (card, "bank_card")):
        for _ in range(200):
            right = make(rng)
            last = str((int(right[-1].replace("X", "0")) + rng.randint(1, 9)) % 10)
            wrong = right[:-1] + last
            if wrong != right:
                assert kind not in pii.find(wrong), kind
                checked += 1
    assert checked > 350


def test_a_masked_text_holds_no_hit_and_nothing_else_of_it_changes() -> None:
    rng, known, checked = random.Random(7), {}, 0
    for kind in PLANTED:
        for _ in range(100):
            text = planted(rng, kind)
            masked = pii.mask(text, known)
            assert pii.find(masked) == {}, kind
            assert masked != text
            assert "ISBN 978-7-02-000220-7" in masked or "ISBN 978-7-02-000220-7" not in text
            if kind not in ("email", "wechat"):  # names may be longer
                assert len(masked) == len(text), "the same form"
            checked += 1
    assert checked == 600
    assert len(set(known.values())) == len(known) > 500, "two things never get one surrogate"
    assert not set(known) & set(known.values())


def test_a_surrogate_of_a_card_is_right_for_no_kind_of_card() -> None:
    for number in range(300):
        other = pii._wrong("622202000000000000", random.Random(number))
        assert len(other) == 18
        assert not pii._luhn(other)
        assert not pii._identity(other)


def test_the_same_thing_gets_the_same_surrogate_and_it_does_not_follow_from_the_thing() -> None:
    known: dict[str, str] = {}
    first, again = (pii.mask(f"{words} 13812345678", known) for words in ("call", "and call"))
    assert first.split()[-1] == again.split()[-1] != "13812345678"
    assert pii.mask("call 13912345670", {}) == pii.mask("call 13812345678", {}), "drawn by order, not from the number"


def test_the_four_modes() -> None:
    texts = ["call 13812345678", "nothing", "mail a.b@mail.cn, 13812345678"]
    counts = {"found": {"email": 1, "phone": 2}, "texts": 2, "of": 3}
    assert pii.apply(texts, "off") == (texts, {})
    assert pii.apply(texts, "report") == (texts, counts)
    assert pii.apply(texts, "drop") == ([None, "nothing", None], counts)
    masked, told = pii.apply(texts, "mask")
    assert told == counts
    assert masked[1] == "nothing"
    assert not [text for text in masked if text is None or "13812345678" in text]


def test_no_count_holds_a_match() -> None:
    rng = random.Random(8)
    texts = [planted(rng, kind) for kind in PLANTED for _ in range(20)]
    for mode in ("report", "mask", "drop"):
        _, counts = pii.apply(texts, mode)
        assert re.fullmatch(r"[a-z_{}\":, 0-9]+", json.dumps(counts))
        assert not re.search(r"\d{4}", json.dumps(counts))
        assert set(counts["found"]) == set(PLANTED)


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="no shared data")
def test_public_texts_give_next_to_no_false_hit() -> None:
    texts: list[str] = []

    def strings(value: object) -> None:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                strings(inner)

    for path in sorted(DATA.rglob("*.json*")):
        raw = path.read_text("utf-8")
        strings(json.loads(raw) if path.suffix == ".json" else [json.loads(line) for line in raw.splitlines()])
    found = sum((pii.find(text) for text in texts), Counter())
    assert len(texts) > 10_000
    # E-mail addresses of made-up people are in them, and are what they look like.
    assert sum(found.values()) - found["email"] == 0, found
    assert found["email"] < 30
