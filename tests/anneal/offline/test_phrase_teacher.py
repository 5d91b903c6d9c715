"""phrases: the offline teacher says what the prompt tells it, obeys every contract, and errs as often as it should."""

import itertools
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anneal import files, prompts
from anneal.checks import facts
from anneal.errors import UserError
from anneal.llm.offline_server import Respond
from anneal.offline.phrase_teacher import load, teacher
from tests.conftest import recipe_values

ROOT = Path(__file__).resolve().parents[3]
BANK = ROOT / "data/raw/brand/offline"
ACTIVE = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text("utf-8"))
RECIPE = ACTIVE if ACTIVE["recipe"] == "brand" else recipe_values("brand")  # the active params may be another's
TYPES: dict[str, str] = RECIPE["types"]
RULES = facts.Rules.model_validate({**RECIPE["rules"], "folder": str(ROOT / RECIPE["rules"]["folder"])})
WORLD = facts.vocabulary(ROOT / RULES.folder / "vocabulary.json")
PRODUCTS = files.read(ROOT / "data/raw/brand/products.jsonl", "id", "name")
PROMPTS = {name: prompts.folder(ROOT / "prompts/brand" / name) for name in ("generate", "clean", "reject")}
STRICT = ("type", "name", "facts", "foreign", "banned", "exaggerated", "length")


def body(prompt: prompts.Prompt, product: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
    settings = {name: more.pop(name) for name in ("seed", "temperature") if name in more}
    slots = prompts.slots({key: value for key, value in product.items() if key != "id"})
    messages = prompt.messages(**{**slots, "label": TYPES[kind], "reason": "", "changes": "", "text": "", **more})
    return {"model": "offline-1", "messages": messages, "max_tokens": 700, "temperature": 1.0, **settings}


def written(respond: Respond) -> list[dict[str, Any]]:
    rows = []
    for product, kind in itertools.product(PRODUCTS, TYPES):
        reply = respond(body(PROMPTS["generate"][kind], product, kind))
        rows.append({"id": product["id"], "type": kind, "facts": product, "text": reply.text, "finish": reply.finish})
    return rows


def check(row: dict[str, Any], kind: str = "", text: str = "") -> dict[str, list[str]]:
    return facts.check(text or row["text"], kind or row["type"], row["facts"], RULES, WORLD)


def strict(hits: dict[str, list[str]]) -> bool:
    return not any(hits[rule] for rule in STRICT)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Respond:
    """The same teacher without its faults."""
    folder = tmp_path_factory.mktemp("bank") / "offline"
    shutil.copytree(BANK, folder)
    (folder / "faults.json").unlink()
    return teacher(folder)


@pytest.fixture(scope="module")
def texts(sound: Respond) -> list[dict[str, Any]]:
    return written(sound)


@pytest.fixture(scope="module")
def raw() -> list[dict[str, Any]]:
    return written(teacher(BANK))


def test_prompts_types_contracts_and_bank_name_the_same_things() -> None:
    bank = load(BANK)
    assert set(TYPES) == set(PROMPTS["generate"]) == set(RULES.types) == set(bank["types"])
    assert {kind: form["label"] for kind, form in bank["types"].items()} == TYPES
    assert set(bank["tables"]["pain"]) == set(WORLD["effects"])
    assert set(bank["groups"]["outsider"]) <= set(WORLD["ingredients"])


def test_every_sound_text_obeys_its_contract_and_holds_only_own_facts(texts: list[dict[str, Any]]) -> None:
    failed = [(row["id"], row["type"], hits) for row in texts if (hits := check(row))["all_facts"]]
    assert len(texts) == 1260
    assert failed == []


def test_no_text_passes_as_another_type(texts: list[dict[str, Any]]) -> None:
    pairs = [(row, kind) for row in texts[::7] for kind in TYPES if kind != row["type"]]
    assert len(pairs) == 1440
    assert sum(strict(check(row, kind)) for row, kind in pairs) / len(pairs) <= 0.05


def test_texts_are_distinct_and_no_two_products_sound_alike(texts: list[dict[str, Any]]) -> None:
    assert len({row["text"] for row in texts}) > 0.95 * len(texts)
    compared = 0
    for kind in TYPES:
        own = [row["text"] for row in texts if row["type"] == kind]
        grams = [{text[at : at + 3] for at in range(len(text) - 2)} for text in own]
        worst = max(len(a & b) / len(a | b) for a, b in itertools.combinations(grams, 2))
        compared += len(grams) * (len(grams) - 1) // 2
        assert worst < 0.7, kind
        assert all(60 <= len(text) <= 200 for text in own), kind
    assert compared == 9 * 140 * 139 // 2


def test_the_opening_tells_the_type(texts: list[dict[str, Any]]) -> None:
    openings = {kind: {row["text"][:2] for row in texts if row["type"] == kind} for kind in TYPES}
    for one, two in itertools.combinations(openings.values(), 2):
        assert not one & two
    assert len(openings) == 9


def test_faults_come_at_their_rates_and_every_kind_comes(raw: list[dict[str, Any]]) -> None:
    bank = load(BANK)
    spoilt = [row for row in raw if not strict(check(row))]
    assert 0.06 < len(spoilt) / len(raw) < 0.13
    seen: Counter[str] = Counter()
    for row in spoilt:
        hits, text = check(row), row["text"]
        seen["tags"] += "#" in text
        seen["preamble"] += text.startswith("以下是")
        seen["fence"] += text.startswith("```")
        seen["truncated"] += row["finish"] == "length"
        seen["refusal"] += text.startswith("很抱歉")
        seen["banned"] += bool(hits["banned"])
        seen["outsider"] += any(hit.startswith("ingredients:") for hit in hits["foreign"])
        closed = re.search(bank["types"][row["type"]]["closing"], text) or not text.endswith("。")
        whole = row["finish"] == "stop" and not text.startswith("很抱歉") and not text.endswith("请放心。")
        seen["no_call" if row["type"].startswith("paid") else "no_person"] += whole and not closed
    assert set(seen) == set(bank["faults"])
    assert min(seen.values()) >= 2, seen


def test_some_sheets_get_nearly_the_same_words_for_two_types(raw: list[dict[str, Any]]) -> None:
    by_product: dict[str, list[str]] = {}
    for row in raw:
        by_product.setdefault(row["id"], []).append(row["text"])
    alike = 0
    for own in by_product.values():
        grams = [{text[at : at + 3] for at in range(len(text) - 2)} for text in own if len(text) > 40]
        alike += any(len(a & b) / len(a | b) > 0.8 for a, b in itertools.combinations(grams, 2))
    assert 3 <= alike <= 20


def test_the_same_request_gets_the_same_words_and_any_other_gets_new_ones(sound: Respond) -> None:
    product, prompt = PRODUCTS[0], PROMPTS["generate"]["paid_ad_bab"]
    first = body(prompt, product, "paid_ad_bab")
    assert sound(first) == sound(json.loads(json.dumps(first)))
    changed = [
        {**first, "temperature": 0.2},
        {**first, "top_p": 0.5},
        *({**first, "seed": seed} for seed in range(8)),
        {**first, "messages": [{"role": "system", "content": "写得短一些。"}, *first["messages"][1:]]},
    ]
    answers = {sound(request).text for request in changed}
    assert len(answers) >= 8
    assert sum(text != sound(first).text for text in answers) >= 8


def test_a_fact_that_the_prompt_stops_telling_is_not_said(sound: Respond) -> None:
    product = {**PRODUCTS[0], "ingredients": PRODUCTS[0]["ingredients"][:1]}
    with pytest.raises(ValueError, match=r"needs .*ingredients\.1"):
        sound(body(PROMPTS["generate"]["social_media_educational"], product, "social_media_educational"))
    request = body(PROMPTS["generate"]["paid_ad_cta"], PRODUCTS[0], "paid_ad_cta")
    for message in request["messages"]:
        message["content"] = message["content"].replace("任务：撰写", "")
    with pytest.raises(ValueError, match="finds no task"):
        sound(request)


def test_concentrations_never_reach_the_text_whichever_side_they_stand(sound: Respond) -> None:
    kind, product = "paid_ad_fab", PRODUCTS[1]
    turned = {
        **product,
        "ingredients": [{"concentration": i["concentration"], "name": i["name"]} for i in product["ingredients"]],
    }
    for sheet in (product, turned):
        text = sound(body(PROMPTS["generate"][kind], sheet, kind)).text
        assert all(i["name"] in text for i in product["ingredients"])
        assert "%" not in text


@pytest.mark.parametrize("mark", ["{}\n#护肤 #成分党", "以下是为您撰写的文案：\n{}", "```\n{}\n```", "{} #原素方程"])
def test_the_tags_round_takes_off_the_marks_and_nothing_else(texts: list[dict[str, Any]], mark: str) -> None:
    respond, clean = teacher(BANK), 0
    for row in texts[::31]:
        request = body(PROMPTS["clean"]["1_tags"], row["facts"], row["type"], text=mark.format(row["text"]))
        assert respond(request).text == row["text"]
        clean += 1
    assert clean == 41


def test_the_person_and_call_rounds_close_a_text_and_leave_a_closed_one(texts: list[dict[str, Any]]) -> None:
    respond, closed = teacher(BANK), 0
    for row in texts[::4]:
        name = {"paid": "3_call_to_action", "soci": "2_persona"}.get(row["type"][:4])
        if name is None:
            continue
        short = row["text"][: row["text"].rstrip("。").rfind("。") + 1]
        assert not strict(check(row, text=short)), short
        fixed = respond(body(PROMPTS["clean"][name], row["facts"], row["type"], text=short)).text
        assert fixed.startswith(short)
        assert strict(check(row, text=fixed)), fixed
        assert respond(body(PROMPTS["clean"][name], row["facts"], row["type"], text=row["text"])).text == row["text"]
        closed += 1
    assert closed == 280


def own_facts(row: dict[str, Any], text: str) -> set[str]:
    bare = text.replace(row["facts"]["name"], "")
    return {word for slot in ("ingredients", "effects") for word in facts.own(row["facts"], slot) if word in bare}


def even(texts: list[dict[str, Any]], worse: list[str]) -> None:
    """Neither side of the pairs is longer, on the whole or in most of them."""
    gaps = [len(row["text"]) - len(text) for row, text in zip(texts, worse, strict=True)]
    assert abs(sum(gaps) / len(gaps)) < 1.5
    assert max(map(abs, gaps)) <= 25
    assert max(sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)) < 0.4 * len(gaps)


@pytest.fixture(scope="module")
def worse(sound: Respond, texts: list[dict[str, Any]]) -> dict[str, list[str]]:
    """A worse text of each kind that needs no changes, for every text of every sheet."""
    return {
        name: [sound(body(PROMPTS["reject"][name], r["facts"], r["type"], text=r["text"])).text for r in texts]
        for name in ("weak", "exaggerated")
    }


def test_a_weak_text_is_as_long_and_obeys_its_type_but_tells_less(
    texts: list[dict[str, Any]], worse: dict[str, list[str]]
) -> None:
    even(texts, worse["weak"])
    fewer = 0
    for row, weak in zip(texts, worse["weak"], strict=True):
        hits = check(row, text=weak)
        assert not any(hits[rule] for rule in ("type", "name", "foreign", "banned", "exaggerated", "length")), weak
        assert own_facts(row, weak) <= own_facts(row, row["text"])
        fewer += own_facts(row, weak) < own_facts(row, row["text"])
    assert len(worse["weak"]) == 1260
    # The others no longer say which ingredient does what, or tell an effect in the name of the whole only.
    assert fewer > 0.85 * len(texts)


def test_an_exaggerated_text_is_as_long_and_promises_what_the_check_finds(
    texts: list[dict[str, Any]], worse: dict[str, list[str]]
) -> None:
    even(texts, worse["exaggerated"])
    found, banned = 0, 0
    for row, loud in zip(texts, worse["exaggerated"], strict=True):
        hits = check(row, text=loud)
        assert not any(hits[rule] for rule in ("type", "name", "foreign", "length")), loud
        assert "！" not in loud
        found += bool(hits["exaggerated"])
        banned += bool(hits["banned"])
    assert found > 0.95 * len(texts)
    assert 0.03 < banned / len(texts) < 0.2


def test_words_of_the_worse_texts_stand_in_sound_ones_too(
    texts: list[dict[str, Any]], worse: dict[str, list[str]]
) -> None:
    """What a weak text says instead sound ones say as well; an exaggerated one has words that none of them may have."""
    own = {row["text"][at : at + 2] for row in texts for at in range(len(row["text"]) - 1)}
    shares = {}
    for name, rows in worse.items():
        pairs = [text[at : at + 2] for text in rows for at in range(len(text) - 1)]
        shares[name] = sum(pair not in own for pair in pairs) / len(pairs)
    assert shares["weak"] < 0.01
    assert 0.03 < shares["exaggerated"] < 0.1


def test_every_sign_of_the_bank_is_a_token_of_the_shipped_base(
    texts: list[dict[str, Any]], worse: dict[str, list[str]]
) -> None:
    """A sign that falls to pieces takes several tokens, which a small model spells wrong."""
    tokens = json.loads((ROOT / "models/shipped/brand/tokenizer.json").read_text("utf-8"))
    from tokenizers import Tokenizer

    shipped = Tokenizer.from_str(json.dumps(tokens))
    signs = sorted(
        {sign for text in [*(row["text"] for row in texts), *worse["weak"], *worse["exaggerated"]] for sign in text}
    )
    assert len(signs) > 400
    assert [sign for sign in signs if len(shipped.encode(sign, add_special_tokens=False).ids) != 1] == []


def test_a_false_text_has_the_false_fact_and_is_else_the_same(texts: list[dict[str, Any]]) -> None:
    respond, seen = teacher(BANK), 0
    for row in texts[::11]:
        own = row["facts"]["ingredients"][0]["name"]
        other = next(word for word in WORLD["ingredients"] if word not in str(row["facts"]))
        ask = {"text": row["text"], "changes": f"{own} → {other}"}
        fake = respond(body(PROMPTS["reject"]["fake"], row["facts"], row["type"], **ask)).text
        assert check(row, text=fake)["foreign"] == [f"ingredients:{other}"]
        assert not check(row, text=fake)["name"]
        assert len(fake.replace(other, own)) == len(row["text"])
        seen += 1
    assert seen == 115


def test_a_fake_without_changes_is_refused() -> None:
    with pytest.raises(ValueError, match="no change"):
        teacher(BANK)(body(PROMPTS["reject"]["fake"], PRODUCTS[0], "paid_ad_fab", text="文", changes="无"))


def test_changes_are_made_in_one_pass(sound: Respond) -> None:
    ask = {"text": "用甲酸与乙酸。", "changes": "甲酸 -> 乙酸\n乙酸 -> 丙酸"}
    assert sound(body(PROMPTS["reject"]["fake"], PRODUCTS[0], "paid_ad_fab", **ask)).text == "用乙酸与丙酸。"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", '{"types": {"paid_ad_bab": {}}}', "in another file"),
        ("tasks.json", "{}", "lacks tasks"),
    ],
)
def test_a_broken_bank_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    shutil.copytree(BANK, tmp_path / "offline")
    (tmp_path / "offline" / name).write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        teacher(tmp_path / "offline")
