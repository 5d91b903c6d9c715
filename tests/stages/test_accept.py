"""An answer that passes for every record, how it was come by, and a contract that is refused where it cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from anneal import files
from anneal.checks import facts
from anneal.dataset import chat_template
from anneal.decoding import generate
from anneal.errors import UserError
from anneal.models import loading, reward_model
from anneal.params import pick
from stages import accept
from tests import micro

GOLDEN = '{"role":"title","x":0.5}'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["role", "x"],
    "properties": {
        "role": {"enum": ["title", "price", "今天"]},
        "x": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
CHECKS = ["json", "schema"]


def section(**changes: Any) -> accept.Accept:
    usual = {"checks": CHECKS, "temperatures": [0.5, 1.0], "candidates": 3, "rank": "likelihood"}
    usual |= {"constrained": True, "fallback": True}
    return accept.Accept.model_validate(usual | changes)


def answers(batch_size: int = 8, **changes: Any) -> accept.Answer:
    usual: dict[str, Any] = {
        "do_sample": False,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "length_penalty": 1.0,
        "max_new_tokens": 60,
        "stop": [],
    }
    whole = {"engine": "transformers", "dtype": "float32", "batch_size": batch_size, "decode": usual | changes}
    return accept.Answer.model_validate(whole)


def rules() -> facts.Rules:
    empty: dict[str, Any] = {name: [] for name in ("foreign", "also", "banned", "encouraged", "exaggerated", "forbid")}
    return facts.Rules.model_validate(
        {"folder": "rules", "name": "", "facts": {"slot": "none", "at_least": 0}, "types": {}, **empty}
    )


def record(number: int, text: str = GOLDEN) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"{['today', 'the fox', 'lazy dogs'][number % 3]} {number}"}]
    completion = [{"role": "assistant", "content": text}]
    ids = {"id": f"p{number:02}/layout/0", "item": f"p{number:02}", "type": "layout", "facts": {}}
    return {**ids, "prompt": prompt, "completion": completion}


def answered(number: int, text: str = GOLDEN) -> dict[str, Any]:
    return {"id": f"p{number:02}/layout/0", "text": text, "finish": "stop", "n_new": 9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.base(tmp_path_factory.mktemp("accept") / "merged")


@pytest.fixture
def place(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout where the first answers of records 1 and 4 break the schema and those of 2 and 5 are no JSON."""
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    monkeypatch.setattr(loading, "threads", lambda _: None)
    units = {"features": ["length"], "log": [], "centres": {}, "mean": [0], "scale": [1]}
    mixture = {"shape": "diag", "weights": [1.0], "means": [[0.0]], "covariances": [[[1.0]]], "tables": {}}
    files.write_json(
        "models/density/density.json",
        {"units": units, **mixture, "threshold": -1000, "percentile": 0.0, "fit_on": ""},
    )
    files.write_json("rules/vocabulary.json", {})
    files.write_json("rules/schema.json", SCHEMA)
    wrong = {0: GOLDEN, 1: '{"role":"title","x":7}', 2: "the quick"}
    files.write("data/test.jsonl", [record(n) for n in range(6)])
    files.write("data/answers/tuned.jsonl", [answered(n, wrong[n % 3]) for n in range(6)])
    files.write("data/answers/aligned.jsonl", [])
    files.write("data/train.jsonl", [record(n, f'{{"role":"price","x":0.{n}}}') for n in range(10, 19)])
    return toy


@pytest.fixture
def merged(place: Path, folder: Path) -> Path:
    (place / "models/merged").symlink_to(folder)
    return place


def rows() -> list[dict[str, Any]]:
    return files.read("data/accepted.jsonl")


def metrics() -> Any:
    return json.loads(Path("reports/metrics/accept.json").read_text())


def climb(wanted: accept.Accept, drawn: accept.Answer | None = None, seed: int = 1) -> list[dict[str, Any]]:
    accept.main(wanted, drawn or answers(), rules(), seed, 1)
    return rows()


def valid(text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def test_without_checks_the_first_answers_pass_and_no_model_is_there(place: Path) -> None:
    (place / "rules/schema.json").unlink()
    (place / "models/density/density.json").unlink()
    found = climb(section(checks=[]))
    firsts = files.read("data/answers/tuned.jsonl")
    assert len(found) == 6
    assert [row["text"] for row in found] == [row["text"] for row in firsts]
    assert {(row["rung"], row["accepted"], row["n_attempts"], row["tokens"]) for row in found} == {
        ("first", True, 1, 9)
    }
    assert (metrics()["accepted"]["mean"], metrics()["first"]["mean"], metrics()["rejections"]) == (1.0, 1.0, {})
    assert not (place / "models/merged").exists()


def test_random_weights_are_answered_by_the_schema(merged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = climb(section())
    assert [row["id"] for row in found] == [record(n)["id"] for n in range(6)]
    assert [row["rung"] for row in found] == ["first", "constrained", "constrained"] * 2
    assert all(valid(row["text"]) and row["accepted"] for row in found)
    (first, *others) = found[1]["attempts"]
    assert first["reasons"][0].startswith("schema: ")
    assert (first["rung"], first["temperature"], first["n_new"], first["logprob"]) == ("first", 0.0, 9, None)
    assert [attempt["rung"] for attempt in others] == [f"temperature {t}" for t in (0.5, 1.0) for _ in range(3)] + [
        "constrained"
    ] * 3
    assert [attempt["temperature"] for attempt in others] == [0.5] * 3 + [1.0] * 3 + [0.5] * 3
    assert all(attempt["reasons"] == [] for attempt in others[-3:])
    assert all(attempt["logprob"] < 0 and 1 <= attempt["n_new"] <= 60 for attempt in others)
    assert found[1]["tokens"] == 9 + sum(attempt["n_new"] for attempt in others)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "accept: first: 2 of 6 accepted, 4 open",
        "accept: temperature 0.5: 0 of 4 accepted, 4 open",
        "accept: temperature 1.0: 0 of 4 accepted, 4 open",
        "accept: constrained: 4 of 4 accepted, 0 open",
    ]
    numbers = metrics()
    assert list(numbers["rungs"]) == ["constrained", "first", "nearest", "temperature 0.5", "temperature 1.0"]
    assert numbers["rungs"]["constrained"] == {"open": 4, "candidates": 12, "accepted": 4, "share": 0.666667}
    assert numbers["rejections"]["json"] == 2 + 24
    assert numbers["attempts"] == {"p50": 10, "p95": 10}
    assert numbers["tokens_per_accepted"] == pytest.approx(sum(row["tokens"] for row in found) / 6, rel=1e-5)


def test_the_seed_decides_and_neither_batch_nor_neighbours_do(merged: Path) -> None:
    wanted, written = section(temperatures=[1.0], candidates=2), set()
    for size in (3, 64):
        climb(wanted, answers(size, max_new_tokens=40))
        written.add(Path("data/accepted.jsonl").read_bytes())
    assert len(written) == 1
    whole = {row["id"]: row for row in rows()}
    assert {row["id"]: row for row in climb(wanted, answers(max_new_tokens=40), seed=2)} != whole
    files.write("data/test.jsonl", [record(n) for n in (1, 5)])
    files.write("data/answers/tuned.jsonl", [answered(1, '{"role":"title","x":7}'), answered(5, "the quick")])
    some = climb(wanted, answers(max_new_tokens=40))
    assert len(some) == 2
    assert all(whole[row["id"]] == row for row in some)


def test_every_candidate_has_a_seed_of_its_own(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, seeds, original = accept.Sampler(section(), answers(max_new_tokens=5), SCHEMA, 1, 1), [], generate.answer

    def noted(*words: Any) -> list[generate.Continuation]:
        seeds.extend(words[5])
        return original(*words)

    monkeypatch.setattr(generate, "answer", noted)
    twins = [record(1), record(4) | {"prompt": record(1)["prompt"]}]
    drawn = [rung.draw(twins) for rung in sampler.rungs()]
    # Three rungs, two records, three candidates; a second run with these params draws the same.
    assert len(seeds) == len(set(seeds)) == 18
    assert [rung.draw(twins) for rung in sampler.rungs()] == drawn
    assert sorted(seeds[18:]) == sorted(seeds[:18])


def test_candidates_carry_the_models_own_log_probability_per_token(merged: Path) -> None:
    import torch

    sampler = accept.Sampler(section(), answers(max_new_tokens=25), SCHEMA, 1, 1)
    tokenizer, weights = sampler.loaded
    prompt = chat_template.prompt_ids(tokenizer, record(1)["prompt"])
    checked = 0
    for free in (True, False):
        drawn = sampler.settings(0.7, free)
        (found,) = sampler.write([(prompt, 5)], drawn, free)
        masks = [] if free else [sampler.grammar.mask()]
        (again,) = generate.answer(weights, tokenizer, [prompt], drawn, chat_template.stop_ids(tokenizer), [5], masks)
        with torch.inference_mode():
            logs = weights(torch.tensor([prompt + again.ids])).logits[0].log_softmax(-1)
        each = [float(logs[len(prompt) - 1 + n, token]) for n, token in enumerate(again.ids)]
        assert (found.text, found.n_new) == (again.text, len(again.ids))
        assert found.logprob == pytest.approx(sum(each) / len(each), abs=1e-4)
        checked += len(each)
    assert checked > 10


def test_the_grammar_is_kept_from_settings_that_would_break_it(merged: Path) -> None:
    drawn = answers(stop=['"', "1"], repetition_penalty=1.2, no_repeat_ngram_size=2)
    found = climb(section(temperatures=[]), drawn)
    assert [row["rung"] for row in found] == ["first", "constrained", "constrained"] * 2
    assert all(valid(row["text"]) for row in found)
    # Without a temperature the rung is greedy, and greedy has one candidate.
    assert {row["n_attempts"] for row in found} == {1, 2}
    assert found[1]["attempts"][1]["temperature"] == 0.0


def test_the_nearest_training_record_is_the_last_resort(merged: Path) -> None:
    broken = record(31, "no layout") | {"prompt": record(1)["prompt"]}
    files.write("data/train.jsonl", [*(record(n, f'{{"role":"price","x":0.{n}}}') for n in range(10, 19)), broken])
    found = climb(section(constrained=False, temperatures=[0.5], candidates=2))
    assert [row["rung"] for row in found] == ["first", "nearest", "nearest"] * 2
    # Of record 1 the nearest prompt is its own, whose text fails; then the first of its kind whose number has a 1.
    assert found[1]["text"] in {'{"role":"price","x":0.10}', '{"role":"price","x":0.13}', '{"role":"price","x":0.16}'}
    assert [bool(attempt["reasons"]) for attempt in found[1]["attempts"]] == [True, True, True, True, False]
    assert found[1]["attempts"][-1] | {"reasons": []} == {
        "rung": "nearest",
        "temperature": None,
        "reasons": [],
        "n_new": 0,
        "logprob": None,
        "finish": "stop",
    }


def test_an_answer_that_never_passes_stays_the_first_and_is_counted(merged: Path) -> None:
    found = climb(section(constrained=False, fallback=False, temperatures=[0.5]))
    assert [row["rung"] for row in found] == ["first", "none", "none"] * 2
    assert [row["text"] for row in found] == [row["text"] for row in files.read("data/answers/tuned.jsonl")]
    assert [row["accepted"] for row in found] == [True, False, False] * 2
    assert metrics()["none"] == {"n": 4, "share": 0.666667}
    assert metrics()["accepted"]["mean"] == 0.333333


def test_in_distribution_is_asked_of_the_density_of_the_filter(merged: Path) -> None:
    mixture = json.loads(Path("models/density/density.json").read_text())
    # One character more than the golden answer is too far.
    mixture |= {"means": [[float(len(GOLDEN))]], "covariances": [[[0.01]]], "threshold": 0.0}
    files.write_json("models/density/density.json", mixture)
    firsts = [answered(n, GOLDEN if n % 2 else GOLDEN.replace("0.5", "0.55")) for n in range(6)]
    files.write("data/answers/tuned.jsonl", firsts)
    found = climb(section(checks=["schema", "in_distribution"], temperatures=[], constrained=False))
    assert [row["accepted"] for row in found] == [n % 2 == 1 for n in range(6)]
    assert found[0]["attempts"][0]["reasons"][0].startswith("in_distribution: log-probability -")


@pytest.mark.parametrize(
    ("wanted", "drawn", "line"),
    [
        ({}, {"num_beams": 3}, "accept.constrained: true excludes answer.decode.num_beams: 3"),
        ({"checks": []}, {"num_beams": 2}, "accept.constrained: true excludes answer.decode.num_beams: 2"),
        ({"checks": ["shema"]}, {}, "accept.checks: unknown check 'shema'"),
    ],
)
def test_a_contract_that_cannot_work_is_refused(
    place: Path, wanted: dict[str, Any], drawn: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line) as err:
        climb(section(**wanted), answers(**drawn))
    assert "\n" not in str(err.value)


def test_constrained_needs_a_schema_and_beams_need_no_grammar(place: Path, folder: Path) -> None:
    (place / "rules/schema.json").unlink()
    with pytest.raises(UserError, match=r"rules/schema.json: no such file; .*accept.constrained to false"):
        climb(section(checks=["json"]))
    (place / "models/merged").symlink_to(folder)
    beams = answers(num_beams=2, max_new_tokens=5)
    assert len(climb(section(checks=["json"], constrained=False, temperatures=[0.5]), beams)) == 6


def test_the_aligned_model_answers_first_where_there_is_one(place: Path) -> None:
    files.write("data/answers/aligned.jsonl", [answered(n, f"aligned {n}") for n in range(6)])
    found = climb(section(checks=[]))
    assert [row["text"] for row in found] == [f"aligned {n}" for n in range(6)]
    files.write("data/answers/aligned.jsonl", [answered(n) for n in range(5)])
    with pytest.raises(UserError, match=r"aligned\.jsonl: other ids than data/test\.jsonl: p05/layout/0"):
        climb(section(checks=[]))


def test_answers_of_other_records_are_refused(place: Path) -> None:
    files.write("data/answers/tuned.jsonl", [answered(n) for n in range(5)])
    with pytest.raises(
        UserError, match=r"tuned\.jsonl: other ids than data/test\.jsonl: p05/layout/0; run `dvc repro`"
    ):
        climb(section())


@pytest.fixture
def rewarded(merged: Path, folder: Path) -> Path:
    """models/reward with random numbers in its adapter and its head."""
    (merged / "models/base").symlink_to(folder)
    weights = reward_model.untrained("float32", 3)
    found = micro.lora(weights, merged / "drawn", task_type="SEQ_CLS", modules_to_save=["score"])
    note = {"made": True, "dtype": "float32", "centre": 0.0, "scale": 1.0}
    files.write_folder("models/reward", lambda out: reward_model.save(found, note, out))
    return merged


def test_ranked_by_reward_every_record_has_the_best_of_n(rewarded: Path) -> None:
    wanted = section(checks=[], rank="reward", temperatures=[1.0, 1.5], candidates=3, constrained=False)
    found = climb(wanted, answers(max_new_tokens=40, stop=["a", "e"]))
    scorer = reward_model.load()
    assert scorer
    firsts = files.read("data/answers/tuned.jsonl")
    improved = 0
    for number, (row, first) in enumerate(zip(found, firsts, strict=True)):
        whole = [attempt for attempt in row["attempts"] if not attempt["reasons"]]
        assert [attempt["rung"] for attempt in row["attempts"]] == ["first"] + ["temperature 1.0"] * 3
        assert all(attempt["finish"] == "stop" for attempt in whole)
        (value,) = scorer.score([record(number)["prompt"]], [row["text"]])
        assert value == pytest.approx(max(attempt["reward"] for attempt in whole), abs=1e-5)
        (before,) = scorer.score([record(number)["prompt"]], [first["text"]])
        assert row["attempts"][0]["reward"] == pytest.approx(before, abs=1e-5)
        improved += value > before + 1e-3
        assert (row["text"] != first["text"]) == (value > before + 1e-5)
    assert len(found) == 6
    assert improved >= 2
    assert {row["accepted"] for row in found} == {True}
    assert metrics()["tokens"] == sum(attempt["n_new"] for row in found for attempt in row["attempts"])
    # Where the best of them is the first answer, it stays.
    files.write("data/answers/tuned.jsonl", [answered(n, row["text"]) for n, row in enumerate(found)])
    again = climb(wanted, answers(max_new_tokens=40, stop=["a", "e"]))
    assert [(row["text"], row["rung"]) for row in again] == [(row["text"], "first") for row in found]


def test_reward_ranks_only_what_passes(rewarded: Path) -> None:
    found = climb(section(rank="reward", temperatures=[1.0]))
    assert all(valid(row["text"]) and row["accepted"] for row in found)
    assert [row["rung"] for row in found] == ["first", "constrained", "constrained"] * 2
    for row in found:
        passing = [attempt["reward"] for attempt in row["attempts"] if not attempt["reasons"]]
        assert len(passing) == (1 if row["rung"] == "first" else 3)
        assert all("reward" not in attempt for attempt in row["attempts"] if attempt["reasons"])


def test_a_rank_by_reward_needs_a_model_and_candidates(place: Path) -> None:
    files.write_json("models/reward/reward.json", {"made": False})
    with pytest.raises(
        UserError, match=r"accept.rank: reward needs a reward model; raise reward.epochs, or set likeli"
    ):
        climb(section(rank="reward"))
    with pytest.raises(
        UserError, match=r"accept.rank: reward has no candidates to rank; add one to accept.temperatures"
    ):
        climb(section(rank="reward", temperatures=[]))


@pytest.mark.parametrize("temperatures", ["[0.6, 0.3]", "[0.3, 0.3]", "[0.0, 0.5]"])
def test_temperatures_must_rise(toy: Path, temperatures: str) -> None:
    def stage(accept: accept.Accept) -> None: ...

    stage.__annotations__["accept"] = accept.Accept
    body = f"accept:\n  checks: []\n  temperatures: {temperatures}\n  candidates: 2\n  rank: likelihood\n"
    Path("params.yaml").write_text(body + "  constrained: false\n  fallback: true\n")
    with pytest.raises(UserError, match=r"params.yaml: accept.temperatures"):
        pick(stage)
