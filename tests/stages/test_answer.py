"""Replies that hang on nothing but what they are asked, and a run that goes on where it was killed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anneal import files, params
from anneal.dataset import chat_template
from anneal.errors import UserError
from anneal.llm import offline_server
from anneal.models import loading, weights
from stages import answer
from tests import ending, micro

ROOT = Path(__file__).resolve().parents[2]
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "max_new_tokens": 12,
    "stop": [],
}


SECTION: dict[str, Any] = {
    "engine": "transformers",
    "model": {"base": None, "tuned": None, "aligned": None},
    "dtype": "float32",
    "batch_size": 4,
    "presets": {},
}


def section(batch_size: int = 4, **changes: Any) -> answer.Answer:
    """`changes` of the section's own keys, and of its `decode`."""
    own = SECTION | {key: changes.pop(key) for key in SECTION.keys() & changes.keys()}
    return answer.Answer.model_validate(own | {"batch_size": batch_size, "decode": GREEDY | changes})


def record(number: int) -> dict[str, Any]:
    words = ["今天", "天气", "很好", "the fox", "lazy", "quick dog"]
    text = " ".join(words[(number * k) % len(words)] for k in range(1, 3 + number % 4))
    return {
        "id": f"p{number:03}/kind/0",
        "item": f"p{number:03}",
        "type": "kind",
        "facts": {},
        "prompt": [{"role": "user", "content": text * (1 + number % 3)}],
        "completion": [{"role": "assistant", "content": f"答：{text}" * (1 + number % 2)}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.base(tmp_path_factory.mktemp("answer") / "base")


@pytest.fixture
def place(toy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a base, a test file and nothing else."""
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    monkeypatch.setattr(loading, "threads", lambda _: None)
    (toy / "models").mkdir()
    (toy / "models/base").symlink_to(folder)
    files.write("data/test.jsonl", [record(n) for n in range(10)])
    return toy


def out(system: str = "base") -> Path:
    return Path(f"data/answers/{system}.jsonl")


def test_the_rows_hold_the_reply_and_the_golden_likelihood(place: Path) -> None:
    import torch

    answer.main("base", section(), seed=1, threads=1)
    found, records = files.read(out()), files.read("data/test.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in records]
    tokenizer, weights = loading.tokenizer(), loading.load(dtype="float32")
    checked = 0
    for row, source in zip(found, records, strict=True):
        assert set(row) == {
            "id",
            "item",
            "type",
            "text",
            "finish",
            "n_prompt",
            "n_new",
            "target_logprob",
            "n_target",
            "n_bytes",
        }
        golden = source["completion"][0]["content"]
        encoded = chat_template.encode(tokenizer, source["prompt"], source["completion"])
        assert row["n_bytes"] == len(golden.encode())
        assert row["n_prompt"] == encoded.prompt == len(chat_template.prompt_ids(tokenizer, source["prompt"]))
        target = encoded.ids[encoded.prompt :]
        assert target[-1] == tokenizer.eos_token_id
        assert row["n_target"] == len(target)
        with torch.inference_mode():
            logs = weights(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
        places = range(encoded.prompt - 1, len(encoded.ids) - 1)
        total = sum(float(logs[at, token]) for at, token in zip(places, target, strict=True))
        assert row["target_logprob"] == pytest.approx(total, abs=1e-3)
        assert row["finish"] in {"stop", "length"}
        assert 1 <= row["n_new"] <= 12
        checked += 1
    assert checked == 10
    assert {row["n_new"] for row in found if row["finish"] == "length"} <= {12}


def test_the_batch_size_changes_no_byte(place: Path) -> None:
    kinds: list[dict[str, Any]] = [{}, {"do_sample": True, "temperature": 1.5, "top_p": 0.9}]
    for kind in kinds:
        written = set()
        for size in (1, 3, 64):
            answer.main("base", section(size, **kind), seed=1, threads=1)
            written.add(out().read_bytes())
        assert len(written) == 1


def test_sampling_follows_the_seed_and_not_the_neighbours(place: Path) -> None:
    drawn = section(do_sample=True, temperature=1.5)
    texts = []
    for seed in (1, 2):
        answer.main("base", drawn, seed=seed, threads=1)
        texts.append([row["text"] for row in files.read(out())])
    assert texts[0] != texts[1]
    files.write("data/test.jsonl", [record(n) for n in range(20)][::3])
    answer.main("base", drawn, seed=2, threads=1)
    again = {row["id"]: row["text"] for row in files.read(out())}
    both = [n for n in range(10) if n % 3 == 0]
    assert [again[record(n)["id"]] for n in both] == [texts[1][n] for n in both]


def test_each_system_reads_its_own_weights(place: Path) -> None:
    micro.lora(loading.load(), place / "models/adapter")
    micro.model(seed=9).save_pretrained("models/merged")
    micro.tokenizer().save_pretrained("models/merged")
    for system in ("base", "tuned"):
        answer.main(system, section(), seed=1, threads=1)
    assert out("tuned").read_bytes() != out("base").read_bytes()
    answer.main("aligned", section(), seed=1, threads=1)
    assert out("aligned").read_bytes() == Path("data/presets/aligned.jsonl").read_bytes() == b"", "nothing was aligned"
    (place / "models/merged/align.json").write_text('{"method": "dpo"}')
    answer.main("aligned", section(), seed=1, threads=1)
    assert len(files.read(out("aligned"))) == 10
    assert out("aligned").read_bytes() not in {out("base").read_bytes(), out("tuned").read_bytes()}
    (place / "models/base").unlink()
    for system in ("base", "tuned"):
        with pytest.raises(UserError, match="models/base: no such folder"):
            answer.main(system, section(), seed=1, threads=1)
    answer.main("aligned", section(), seed=1, threads=1)


def test_the_tuned_model_is_the_base_with_its_adapter(place: Path) -> None:
    import torch

    attached = micro.lora(loading.load(), place / "models/adapter")
    _, merged = weights.load("tuned", "float32")
    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        ours, peft, base = (each(ids).logits for each in (merged, attached, loading.load(dtype="float32")))
    assert torch.allclose(ours, peft, atol=1e-4)
    assert not torch.allclose(ours, base, atol=1e-1)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer.main("base", section(), seed=1, threads=1)
    whole = out().read_bytes()
    out().unlink()
    assert not list((place / ".work/answer").iterdir())
    imports = "from stages import answer; from tests.stages.test_answer import section"
    killed = ending.after_writes(place, 2, imports, 'answer.main("base", section(), seed=1, threads=1)')
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out().exists()
    (parts,) = (place / ".work/answer").iterdir()
    assert len(list((parts / "main").iterdir())) == 2
    made, original = [], answer.reply

    def counted(rows: list[answer.Row], *rest: Any, **named: Any) -> list[dict[str, Any]]:
        made.append(len(rows))
        return original(rows, *rest, **named)

    monkeypatch.setattr(answer, "reply", counted)
    answer.main("base", section(), seed=1, threads=1)
    assert made == [2], "ten rows in batches of four, two of which were done"
    assert out().read_bytes() == whole
    assert not list((place / ".work/answer").iterdir())


def test_finished_batches_belong_to_their_weights_questions_and_settings(place: Path) -> None:
    def mark() -> str:
        return answer.unfinished([Path("models/base")], section(), 1, 1)

    first = mark()
    assert mark() == first
    others = {
        answer.unfinished([Path("models/base")], section(5), 1, 1),
        answer.unfinished([Path("models/base")], section(max_new_tokens=13), 1, 1),
        answer.unfinished([Path("models/base")], section(), 2, 1),
        answer.unfinished([Path("models/base")], section(), 1, 2),
        answer.unfinished([Path("models/base")], section(engine="own"), 1, 1),
        answer.unfinished([Path("models/base")], section(presets={"a": {}}), 1, 1),
        answer.unfinished([Path("models/base")], section(presets={"a": {"do_sample": True, "seeds": [1]}}), 1, 1),
    }
    files.write("data/test.jsonl", [record(n) for n in range(9)])
    others.add(mark())
    (place / "models/base").unlink()
    micro.base(place / "models/base", "llama")
    others.add(mark())
    assert len(others - {first}) == 9


def test_a_record_that_cannot_be_answered_is_named(place: Path) -> None:
    with pytest.raises(
        UserError, match=r"data/test.jsonl: p\d+/kind/0: \d+ tokens .* the model takes 512; lower answer"
    ):
        answer.main("base", section(max_new_tokens=500), seed=1, threads=1)
    broken = record(3) | {"completion": [{"role": "user", "content": "x"}]}
    files.write("data/test.jsonl", [record(1), broken])
    with pytest.raises(UserError, match=r"data/test.jsonl: p003/kind/0: the completion does not end with an assistant"):
        answer.main("base", section(), seed=1, threads=1)
    assert not out().exists()


def test_our_own_engine_writes_what_transformers_writes(place: Path) -> None:
    for kind in ({}, {"do_sample": True, "temperature": 1.5}, {"num_beams": 3, "length_penalty": 0.6}):
        written = set()
        for engine in ("transformers", "own"):
            answer.main("base", section(engine=engine, **kind), seed=1, threads=1)
            written.add(out().read_bytes())
        assert len(written) == 1, kind


PRESETS: dict[str, Any] = {
    "greedy": {},
    "sample": {"do_sample": True, "temperature": 1.4, "seeds": [1, 7]},
    "beam": {"num_beams": 3, "length_penalty": 0.6},
}


def test_presets_answer_the_same_items_beside_the_main_search(place: Path) -> None:
    answer.main("base", section(), seed=1, threads=1)
    alone = out().read_bytes()
    assert Path("data/presets/base.jsonl").read_bytes() == b""
    answer.main("base", section(presets=PRESETS), seed=1, threads=1)
    assert out().read_bytes() == alone
    rows, ids = files.read("data/presets/base.jsonl"), [record(n)["id"] for n in range(10)]
    runs: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for row in rows:
        assert set(row) == {"id", "item", "type", "preset", "seed", "text", "finish", "n_new"}
        runs.setdefault((row["preset"], row["seed"]), []).append(row)
    assert list(runs) == [("greedy", None), ("sample", 1), ("sample", 7), ("beam", None)]
    assert all([row["id"] for row in run] == ids for run in runs.values())
    texts = {name: [row["text"] for row in run] for name, run in runs.items()}
    assert texts["greedy", None] == [row["text"] for row in files.read(out())]
    assert len({str(found) for found in texts.values()}) == 4
    # A preset is a whole Decode: it gives what it gives as the main search with that seed.
    for key, changes, seed in (("sample", {"do_sample": True, "temperature": 1.4}, 7), ("beam", PRESETS["beam"], 1)):
        answer.main("base", section(**changes), seed=seed, threads=1)
        assert texts[key, 7 if key == "sample" else None] == [row["text"] for row in files.read(out())]


def picked(presets: Any) -> Any:
    YAML().dump(
        {"answer": {**SECTION, "decode": GREEDY, "presets": presets}, "seed": 1, "threads": 1}, Path("params.yaml")
    )
    return params.pick(answer.main)["answer"]


def test_a_bad_preset_is_refused_with_file_key_and_value(place: Path) -> None:
    found = picked(PRESETS).presets
    assert [preset.runs() for preset in found.values()] == [[None], [1, 7], [None]]
    assert (found["beam"].num_beams, found["beam"].max_new_tokens) == (3, 12)
    bad: list[tuple[Any, str]] = [
        ({"num_beams": 0}, r"params.yaml: answer.presets.x.num_beams: Input .* greater than or equal to 1, got 0"),
        ({"beams": 2}, r"params.yaml: answer.presets.x.beams: unknown key"),
        ({"do_sample": True}, r"params.yaml: answer.presets.x: .*a preset that samples names its seeds"),
        ({"seeds": [1]}, r"params.yaml: answer.presets.x: .*seeds without do_sample change nothing"),
        ({"do_sample": True, "seeds": [1, 1]}, r"params.yaml: answer.presets.x: .*a seed stands twice"),
        ({"do_sample": True, "seeds": [1], "num_beams": 2}, r"answer.presets.x: .*do_sample and num_beams > 1 exclude"),
        ("beam", r"params.yaml: answer.presets.x: .*got 'beam'"),
    ]
    for preset, message in bad:
        with pytest.raises(UserError, match=message):
            picked({"x": preset})
    with pytest.raises(UserError, match=r"params.yaml: answer.presets: .*got \['x'\]"):
        picked(["x"])
    assert len(bad) == 7


def test_the_longest_preset_must_fit_the_model(place: Path) -> None:
    with pytest.raises(UserError, match="the model takes 512; lower answer"):
        answer.main("base", section(presets={"long": {"max_new_tokens": 500}}), seed=1, threads=1)


class Server:
    """A chat server on loopback that answers with the last words of what it is asked, or with `said`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.said: offline_server.Reply | None = None

    def respond(self, body: dict[str, Any]) -> offline_server.Reply:
        self.asked.append(body)
        return self.said or offline_server.Reply(str(body["messages"][-1]["content"])[-6:])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Server()
    with offline_server.serve(made.respond) as url:
        monkeypatch.setenv("ANSWER_BASE_URL", url)
        monkeypatch.setenv("ANSWER_API_KEY", "any")
        yield made


SERVED: dict[str, Any] = {
    "engine": "openai",
    "model": {"base": "offline-base-1", "tuned": "offline-tuned-1", "aligned": None},
}


def test_a_server_gives_the_words_and_the_weights_the_likelihood(place: Path, server: Server) -> None:
    answer.main("base", section(), seed=1, threads=1)
    local = files.read(out())
    changes = SERVED | {"stop": ["zzz"], "presets": {"warm": {"do_sample": True, "top_k": 5, "seeds": [3]}}}
    answer.main("base", section(**changes), seed=1, threads=1)
    found = files.read(out())
    for number, (row, before) in enumerate(zip(found, local, strict=True)):
        prompt = record(number)["prompt"][-1]["content"]
        assert (row["text"], row["finish"]) == (prompt[-6:], "stop")
        assert (row["n_prompt"], row["n_new"]) == (len(prompt), len(row["text"])), "this server counts characters"
        assert [row[k] for k in ("target_logprob", "n_target", "n_bytes")] == [
            before[k] for k in ("target_logprob", "n_target", "n_bytes")
        ]
    assert len(server.asked) == 20, "ten rows, and ten of the preset"
    greedy = [body for body in server.asked if "top_k" not in body]
    assert len(greedy) == 10
    for body in greedy:
        assert {k: body[k] for k in body if k != "messages"} == {
            "model": "offline-base-1",
            "max_tokens": 12,
            "temperature": 0.0,
            "stop": ["zzz"],
        }
    drawn = [body for body in server.asked if "top_k" in body]
    assert {(body["temperature"], body["top_p"], body["top_k"]) for body in drawn} == {(1.0, 1.0, 5)}
    assert len({body["seed"] for body in drawn}) == 10
    assert [row["seed"] for row in files.read("data/presets/base.jsonl")] == [3] * 10
    whole = out().read_bytes()
    answer.main("base", section(**changes), seed=1, threads=1)
    assert len(server.asked) == 20, "what was answered is not asked again"
    assert out().read_bytes() == whole


def test_a_server_with_other_weights_is_asked_again(place: Path, server: Server) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json: no such file; `dvc repro train` makes it"):
        answer.main("tuned", section(**SERVED), seed=1, threads=1)
    micro.lora(loading.load(), place / "models/adapter")
    answer.main("tuned", section(**SERVED), seed=1, threads=1)
    assert [body["model"] for body in server.asked] == ["offline-tuned-1"] * 10
    micro.lora(loading.load(), place / "models/adapter", seed=6)
    answer.main("tuned", section(**SERVED), seed=1, threads=1)
    assert len(server.asked) == 20


def test_a_reply_that_is_cut_short_empty_or_a_refusal_is_the_answer(place: Path, server: Server) -> None:
    replies = [("the fo", "length"), ("", "stop"), ("I cannot help", "stop"), ("one zzz two", "stop")]
    found = []
    for number, (words, finish) in enumerate(replies):
        server.said = offline_server.Reply(words, finish)
        files.write("data/test.jsonl", [record(number)])
        answer.main("base", section(**SERVED, stop=["zzz"], max_new_tokens=40), seed=1, threads=1)
        found += [(row["text"], row["finish"]) for row in files.read(out())]
    assert found == [*replies[:3], ("one ", "stop")]
    assert len(server.asked) == 4


def test_a_row_without_an_answer_is_refused_and_the_others_are_kept(place: Path, server: Server) -> None:
    def respond(body: dict[str, Any]) -> offline_server.Reply:
        server.asked.append(body)
        if str(body["messages"][-1]["content"]) == record(4)["prompt"][-1]["content"]:
            raise ValueError("too long for me")
        return offline_server.Reply("yes")

    numbers = [1, 4]
    files.write("data/test.jsonl", [record(n) for n in numbers])
    with offline_server.serve(respond) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANSWER_BASE_URL", url)
        for _ in range(2):
            with pytest.raises(UserError, match=r"p004/kind/0: the server gave no answer: http 400: .*too long for me"):
                answer.main("base", section(**SERVED), seed=1, threads=1)
    assert len(server.asked) == 3, "the row that was answered is not asked again"
    assert not out().exists()


def test_what_a_server_cannot_do_is_refused_in_one_line(place: Path, server: Server) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"num_beams": 3}, r"^params.yaml: answer.decode.num_beams: 3, which engine: openai cannot do; set 1$"),
        ({"no_repeat_ngram_size": 2}, r"answer.decode.no_repeat_ngram_size: 2, which engine: openai cannot do; set 0"),
        ({"presets": {"beam": {"num_beams": 2}}}, r"params.yaml: answer.presets.beam.num_beams: 2, which engine"),
        (
            {"model": {"base": None, "tuned": "x", "aligned": None}},
            r"params.yaml: answer.model.base: empty; name what the server",
        ),
        (
            {"model": {"base": "wrong", "tuned": "x", "aligned": None}},
            r"http 404: .*correct answer.model in params.yaml or ANSWER_BASE",
        ),
    ]
    for changes, message in wrong:
        with pytest.raises(UserError, match=message):
            answer.main("base", section(**(SERVED | changes)), seed=1, threads=1)
    assert len(wrong) == 5
    assert not out().exists()
    assert not server.asked


def test_a_dry_run_says_what_would_be_sent(place: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_DRY_RUN", "1")
    with pytest.raises(UserError, match="dry run: would send 4 of 4 answer requests of the first batch"):
        answer.main("base", section(**SERVED), seed=1, threads=1)
    assert not server.asked
