"""Replies that hang on nothing but what they are asked, and a run that goes on where it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages import answer
from stages.lib import chat, jsonl, model
from stages.lib.params import Refusal
from tests import micro

ROOT = Path(__file__).parent.parent
GREEDY: dict[str, Any] = {
    "do_sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "num_beams": 1,
    "max_new_tokens": 12, "stop": [],
}  # fmt: skip


def section(batch_size: int = 4, **changes: Any) -> answer.Answer:
    settings = GREEDY | changes
    return answer.Answer.model_validate({"dtype": "float32", "batch_size": batch_size, "decode": settings})


def record(number: int) -> jsonl.Record:
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
    monkeypatch.setattr(model, "threads", lambda _: None)
    (toy / "models").mkdir()
    (toy / "models/base").symlink_to(folder)
    jsonl.write("data/test.jsonl", [record(n) for n in range(10)])
    return toy


def out(system: str = "base") -> Path:
    return Path(f"data/answers/{system}.jsonl")


def test_the_rows_hold_the_reply_and_the_golden_likelihood(place: Path) -> None:
    import torch

    answer.main("base", section(), seed=1, threads=1)
    found, records = jsonl.read(out()), jsonl.read("data/test.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in records]
    tokenizer, weights = model.tokenizer(), model.load(dtype="float32")
    checked = 0
    for row, source in zip(found, records, strict=True):
        assert set(row) == {
            "id", "item", "type", "text", "finish", "n_prompt", "n_new", "target_logprob", "n_target", "n_bytes",
        }  # fmt: skip
        golden = source["completion"][0]["content"]
        encoded = chat.encode(tokenizer, source["prompt"], source["completion"])
        assert row["n_bytes"] == len(golden.encode())
        assert row["n_prompt"] == encoded.prompt == len(chat.prompt_ids(tokenizer, source["prompt"]))
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
        texts.append([row["text"] for row in jsonl.read(out())])
    assert texts[0] != texts[1]
    jsonl.write("data/test.jsonl", [record(n) for n in range(20)][::3])
    answer.main("base", drawn, seed=2, threads=1)
    again = {row["id"]: row["text"] for row in jsonl.read(out())}
    both = [n for n in range(10) if n % 3 == 0]
    assert [again[record(n)["id"]] for n in both] == [texts[1][n] for n in both]


def test_each_system_reads_its_own_weights(place: Path) -> None:
    micro.model(seed=9).save_pretrained("models/merged")
    micro.tokenizer().save_pretrained("models/merged")
    answer.main("tuned", section(), seed=1, threads=1)
    answer.main("base", section(), seed=1, threads=1)
    assert out("tuned").read_bytes() != out("base").read_bytes()
    (place / "models/base").unlink()
    answer.main("tuned", section(), seed=1, threads=1)
    with pytest.raises(Refusal, match="models/base: no such folder"):
        answer.main("base", section(), seed=1, threads=1)


_DIES = """
import os, signal, sys
from stages import answer
from stages.lib import jsonl
from tests.test_answer import section
write, calls = jsonl.write, []
def dying(path, records):
    write(path, records)
    calls.append(path)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
jsonl.write = dying
answer.main("base", section(), seed=1, threads=1)
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer.main("base", section(), seed=1, threads=1)
    whole = out().read_bytes()
    out().unlink()
    assert not list((place / ".work/answer").iterdir())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", _DIES], cwd=place, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out().exists()
    (parts,) = (place / ".work/answer").iterdir()
    assert len(list(parts.iterdir())) == 2
    made, original = [], answer.reply

    def counted(weights: Any, tokenizer: Any, rows: list[answer.Row], *rest: Any) -> list[jsonl.Record]:
        made.append(len(rows))
        return original(weights, tokenizer, rows, *rest)

    monkeypatch.setattr(answer, "reply", counted)
    answer.main("base", section(), seed=1, threads=1)
    assert made == [2], "ten rows in batches of four, two of which were done"
    assert out().read_bytes() == whole
    assert not list((place / ".work/answer").iterdir())


def test_finished_batches_belong_to_their_weights_questions_and_settings(place: Path) -> None:
    def mark() -> str:
        return answer.fingerprint(Path("models/base"), section(), 1, 1)

    first = mark()
    assert mark() == first
    others = {
        answer.fingerprint(Path("models/base"), section(5), 1, 1),
        answer.fingerprint(Path("models/base"), section(max_new_tokens=13), 1, 1),
        answer.fingerprint(Path("models/base"), section(), 2, 1),
        answer.fingerprint(Path("models/base"), section(), 1, 2),
    }
    jsonl.write("data/test.jsonl", [record(n) for n in range(9)])
    others.add(mark())
    (place / "models/base").unlink()
    micro.base(place / "models/base", "llama")
    others.add(mark())
    assert len(others - {first}) == 6


def test_a_record_that_cannot_be_answered_is_named(place: Path) -> None:
    with pytest.raises(Refusal, match=r"data/test.jsonl: p\d+/kind/0: \d+ tokens .* the model takes 512; lower answer"):
        answer.main("base", section(max_new_tokens=500), seed=1, threads=1)
    broken = record(3) | {"completion": [{"role": "user", "content": "x"}]}
    jsonl.write("data/test.jsonl", [record(1), broken])
    with pytest.raises(Refusal, match=r"data/test.jsonl: p003/kind/0: the completion does not end with an assistant"):
        answer.main("base", section(), seed=1, threads=1)
    assert not out().exists()
