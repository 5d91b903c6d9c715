"""audit: every planted trap is flagged by name, clean pairs are not, and what must stop a training does."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.errors import UserError
from anneal.preference import pair_flaws
from stages import audit as stage
from tests.conftest import ROOT

SECTION = stage.Audit(max_shortcut_auc=0.9, ngram=2, folds=4, top=4)
PART = {0: "test", 1: "validation"}  # of an item, by its number modulo 6
Row = dict[str, Any]


def text(name: str, low: int = 40, high: int = 60) -> str:
    rng = random.Random(name)
    return "".join(chr(0x4E00 + rng.randrange(200)) for _ in range(rng.randint(low, high)))


def row(item: int, number: int, kind: str = "weak", chosen: str = "", rejected: str = "") -> Row:
    name = f"i{item:02d}/{kind}/{number}"
    return {
        "id": name,
        "item": f"i{item:02d}",
        "type": "ad",
        "kind": kind,
        "prompt": [{"role": "user", "content": f"Write {number} of {item}"}],
        "chosen": [{"role": "assistant", "content": chosen or text(f"{name} chosen")}],
        "rejected": [{"role": "assistant", "content": rejected or text(f"{name} rejected")}],
    }


def rows(kind: str = "weak", items: int = 24, **texts: Any) -> list[Row]:
    return [
        row(item, number, kind, **{side: write(f"{kind} {item}/{number}") for side, write in texts.items()})
        for item in range(items)
        for number in range(2)
    ]


def pairs(every: list[Row]) -> list[pair_flaws.Pair]:
    return [pair_flaws.pair(r, PART.get(int(r["item"][1:]) % 6, "train")) for r in every]


def audited(every: list[Row], section: stage.Audit = SECTION) -> Row:
    return stage.measure(pairs(every), section, 42)


def names(numbers: Row, strategy: str = "weak") -> list[str]:
    return [flag["name"] for flag in numbers["flags"] if flag["strategy"] == strategy]


def write(every: list[Row]) -> None:
    for part in pair_flaws.PARTS:
        files.write(f"data/{part}_pairs.jsonl", [r for r in every if PART.get(int(r["item"][1:]) % 6, "train") == part])


CLEAN = rows("weak") + rows("fake", 12)


def test_clean_pairs_raise_no_flag() -> None:
    numbers = audited(CLEAN)
    assert numbers["flags"] == []
    assert pair_flaws.refusals(numbers) == []
    weak, fake = numbers["strategies"]["weak"], numbers["strategies"]["fake"]
    assert (weak["n"], fake["n"], weak["share"], fake["share"]) == (48, 24, 48 / 72, 24 / 72)
    assert (weak["items"], weak["parts"]) == (24, {"train": 32, "validation": 8, "test": 8})
    assert 0.35 < weak["ngrams"]["auc"] < 0.65
    assert numbers["all"]["n"] == numbers["n"] == 72


def test_length_alone() -> None:
    numbers = audited(rows(chosen=lambda name: text(f"{name} c", 80, 120)))
    assert "length" in names(numbers)
    line = next(flag["line"] for flag in numbers["flags"] if flag["name"] == "length")
    assert line == "weak: length: chosen is longer in 48 of 48 pairs, AUC of length alone 1.000"
    assert [r for r in pair_flaws.refusals(numbers) if r.startswith("length alone decides every pair: weak")]


def test_length_the_other_way_and_by_one_character() -> None:
    """One side always longer is a rule that needs no classifier, and an AUC of all lengths would not show it."""
    one = audited(
        [
            row(i, k, chosen=(same := text(f"{i}/{k}")), rejected=same[:20] + "一" + same[20:])
            for i in range(24)
            for k in range(2)
        ]
    )
    assert 0.4 < one["all"]["length"]["auc"] < 0.5
    assert "length" in names(one)
    assert "chosen is shorter in 48 of 48" in next(f["line"] for f in one["flags"] if f["name"] == "length")


def test_length_of_one_strategy_is_no_refusal_while_another_is_not_decided_by_it() -> None:
    mixed = audited(rows(chosen=lambda name: text(f"{name} c", 80, 120)) + rows("fake"))
    assert "length" in names(mixed)
    assert "length" not in names(mixed, "fake")
    assert pair_flaws.refusals(mixed) == []
    opposite = audited(rows(chosen=lambda n: text(f"{n} c", 80, 120)) + rows("fake", chosen=lambda n: text(n, 9, 12)))
    assert "length" not in names(opposite, pair_flaws.ALL)
    assert len(pair_flaws.refusals(opposite)) == 1


def test_one_give_away_character() -> None:
    numbers = audited(rows("weak") + rows("loud", rejected=lambda name: text(name, 20, 28) + "！" + text(name, 19, 29)))
    assert "shortcut" in names(numbers, "loud")
    assert names(numbers) == []
    line = next(flag["line"] for flag in numbers["flags"] if flag["name"] == "shortcut")
    assert line.startswith("loud: shortcut: character n-grams tell chosen from rejected, AUC 1.000 > 0.9 (at equal")
    assert '"！" (rejected)' in line
    assert pair_flaws.refusals(numbers) == []  # it is told in red, and may be what is wanted


def test_chosen_that_is_rejected() -> None:
    every = rows()
    every[20]["rejected"] = [
        {
            "role": "assistant",
            "content": every[20]["chosen"][0]["content"][:9] + "\n  " + every[20]["chosen"][0]["content"][9:],
        }
    ]
    numbers = audited(every)
    assert names(numbers) == ["identical"]
    assert pair_flaws.refusals(numbers) == ["weak: identical: chosen == rejected in 1 of 48 pairs"]


def test_duplicates() -> None:
    every = rows()
    again = {**every[20], "id": "again", "prompt": [{"role": "user", "content": "other"}]}
    numbers = audited([*every, again, {**every[20], "id": "thrice"}])
    assert names(numbers) == ["duplicates"]
    assert numbers["strategies"]["weak"]["duplicates"] == {"pairs": 2, "prompted": 1, "rejected": 2}
    assert "2 of 50 pairs repeat both texts of another, 1 its prompt too" in numbers["flags"][0]["line"]
    assert pair_flaws.refusals(numbers) == []


@pytest.mark.parametrize("shared", ["item", "prompt", "chosen", "rejected"])
def test_a_strategy_that_leaks_across_the_split(shared: str) -> None:
    """The train pair is of another strategy; the flag stands at the strategy whose held-out pairs are spoilt."""
    every = pairs(CLEAN)
    spoilt = next(at for at, p in enumerate(every) if p.kind == "fake" and p.part == "test")
    source = next(p for p in every if p.kind == "weak" and p.part == "train")
    every[spoilt] = every[spoilt]._replace(**{shared: getattr(source, shared)})
    numbers = stage.measure(every, SECTION, 42)
    found = numbers["strategies"]["fake"]["leaks"]["test"]
    assert found == {"n": 4, "any": 1, **{name: int(name == shared) for name in pair_flaws.SHARED}}
    assert names(numbers, "fake") == ["leak"]
    assert names(numbers) == []
    line = f"fake: leak: 1 of 4 test pairs share with an earlier part: {shared} 1"
    assert pair_flaws.refusals(numbers) == [line]


def test_test_pairs_that_validation_knows_leak_too() -> None:
    every = pairs(CLEAN)
    at = {part: next(n for n, p in enumerate(every) if p.part == part) for part in ("validation", "test")}
    every[at["test"]] = every[at["test"]]._replace(chosen=every[at["validation"]].chosen)
    numbers = stage.measure(every, SECTION, 42)
    assert [numbers["all"]["leaks"][part]["any"] for part in ("validation", "test")] == [0, 1]


def test_too_few_pairs_say_so_and_nothing_else() -> None:
    numbers = audited(rows(items=3, chosen=lambda name: text(name, 80, 90)))
    assert names(numbers) == ["few"]
    assert numbers["strategies"]["weak"]["ngrams"]["auc"] is None


def test_a_strategy_that_a_part_lacks() -> None:
    numbers = audited(rows("weak") + [r for r in rows("fake") if int(r["item"][1:]) % 6])
    assert [flag["line"] for flag in numbers["flags"]] == ["fake: absent: no pair in test"]
    no_test = audited([r for r in rows("weak") + rows("fake") if int(r["item"][1:]) % 6])
    assert [flag["line"] for flag in no_test["flags"]] == ["all pairs: absent: no pair in test"]


def test_one_strategy_is_told_once() -> None:
    numbers = audited(rows(rejected=lambda name: text(name) + "！"))
    assert {flag["strategy"] for flag in numbers["flags"]} == {"weak"}
    assert numbers["all"] == numbers["strategies"]["weak"]


def test_an_empty_side_is_refused() -> None:
    bad = {**CLEAN[0], "rejected": [{"role": "assistant", "content": " \n"}]}
    with pytest.raises(UserError, match=r"^data/train_pairs\.jsonl: i00/weak/0: rejected is an empty text"):
        pair_flaws.pair(bad, "train")


def test_no_pairs_is_an_honest_audit(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write([])
    stage.main(SECTION, 42)
    numbers = files.read_json("reports/metrics/pairs.json")
    assert (numbers["n"], numbers["strategies"], numbers["flags"]) == (0, {}, [])
    assert numbers["reason"] == "empty: there are no pairs"
    assert numbers["all"]["length"]["mean"] is None
    assert "empty: there are no pairs" in capsys.readouterr().out
    assert pair_flaws.refusals(numbers) == ["data/train_pairs.jsonl: no pairs to learn from"]


def test_the_terminal_shows_the_table_and_the_flags(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(rows("weak") + rows("[red]loud", rejected=lambda name: text(name, 39, 59) + "]"))
    stage.main(SECTION, 42)
    out = capsys.readouterr().out
    assert "[red]loud, rejected by:" in out
    assert '"]" 0/48' in out
    assert "[red]loud: shortcut: " in out
    assert "50.0%" in out


def test_metrics_hold_no_texts_longer_than_an_ngram(toy: Path) -> None:
    write(CLEAN)
    stage.main(SECTION, 42)
    said = Path("reports/metrics/pairs.json").read_text("utf-8")
    texts = [r[side][0]["content"] for r in CLEAN for side in ("chosen", "rejected")]
    told = [t[at : at + 3] for t in texts for at in range(len(t) - 2)]
    assert len(told) > 5000
    assert not [t for t in told if t in said]
    numbers = json.loads(said)
    assert sum(len(c["ngrams"]["top"]) for c in numbers["strategies"].values()) > 0


def test_same_bytes_for_shuffled_rows_and_another_hash_seed(toy: Path) -> None:
    every = CLEAN + rows("loud", 18, rejected=lambda name: text(name, 39, 59) + "！")
    script = "from stages import audit; audit.main(audit.Audit(max_shortcut_auc=0.9, ngram=2, folds=4, top=4), 42)"
    made = []
    for seed in ("1", "2"):
        write(random.Random(seed).sample(every, len(every)))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True)
        made.append(Path("reports/metrics/pairs.json").read_bytes())
    assert made[0] == made[1]
    assert len(json.loads(made[0])["strategies"]) == 3
