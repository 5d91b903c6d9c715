"""Samples that hang on nothing but their prompt and number, their rewards, and what must not be trained on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.checks import facts
from anneal.errors import UserError
from anneal.models import loading
from anneal.preference.rule_rewards import Rewards
from stages import rollout
from tests import ending, micro

ROOT = Path(__file__).resolve().parents[2]
TYPES = ("note", "list", "tale")


def rewards(**weights: float) -> Rewards:
    call = {"types": [], "pattern": None}
    return Rewards.model_validate({"weights": weights or {"length": 1.0, "stop": 2.0}, "call_to_action": call})


def section(**changes: Any) -> rollout.Rollout:
    usual = {"prompts": 7, "samples": 3, "temperature": 1.2, "max_new_tokens": 10, "batch_size": 8}
    return rollout.Rollout.model_validate(usual | {"max_zero_spread": 0.5, "max_length_rho": 0.95} | changes)


def rules(*band: int) -> facts.Rules:
    empty: dict[str, Any] = {name: [] for name in ("foreign", "also", "banned", "exaggerated", "encouraged", "forbid")}
    contract = {"require": ["^the"], "forbid": [], "length": list(band or (8, 12))}
    own = {"folder": "rules", "name": "name", "facts": {"slot": "none", "at_least": 0}}
    return facts.Rules.model_validate(empty | own | {"types": dict.fromkeys(TYPES, contract)})


def record(number: int) -> dict[str, Any]:
    item, kind = f"p{number // 3:02}", TYPES[number % 3]
    ids = {"id": f"{item}/{kind}/0", "item": item, "type": kind, "facts": {"name": "Soft Soap"}}
    return {**ids, "prompt": [{"role": "user", "content": f"{'the fox ' * (number % 4)}{number}"}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rollout")
    micro.base(folder / "base")
    micro.lora(loading.load(folder / "base", "float32"), folder / "adapter")
    return folder


@pytest.fixture
def place(toy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a base, an adapter and 24 held-out prompts: 8 items, each of three types."""
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    monkeypatch.setattr(loading, "threads", lambda _: None)
    (toy / "models").symlink_to(models)
    files.write_json("rules/vocabulary.json", {})
    files.write("data/test.jsonl", [record(n) for n in range(24)])
    return toy


def out(system: str = "tuned") -> Path:
    return Path(f"data/rollouts/{system}.jsonl")


def metrics(system: str = "tuned") -> Any:
    return json.loads(Path(f"reports/metrics/rollout/{system}.json").read_text())


def roll(drawn: rollout.Rollout | None = None, given: Rewards | None = None, seed: int = 1) -> list[dict[str, Any]]:
    rollout.main("tuned", given or rewards(), drawn or section(), rules(), seed, 1)
    return files.read(out())


def test_each_prompt_has_its_samples_and_each_sample_its_rewards(place: Path) -> None:
    found = roll(section(prompts=22, samples=4, max_new_tokens=30))
    assert [row["sample"] for row in found] == [0, 1, 2, 3] * 22
    assert len({row["id"] for row in found}) == 22
    assert len({row["text"] for row in found}) > 80
    for row in found:
        assert set(row) == {"id", "item", "type", "sample", "text", "finish", "n_new", "rewards", "reward"}
        assert set(row["rewards"]) == {"length", "stop"}
        assert row["rewards"]["stop"] == float(row["finish"] == "stop")
        assert row["reward"] == pytest.approx((row["rewards"]["length"] + 2 * row["rewards"]["stop"]) / 3, abs=1e-6)
    assert {row["rewards"]["stop"] for row in found} == {0, 1}
    numbers = metrics()
    assert (numbers["n"], numbers["samples"], numbers["reward"]["n"]) == (22, 4, 22)
    assert numbers["reward"]["mean"] == pytest.approx(sum(row["reward"] for row in found) / 88, abs=1e-6)
    assert set(numbers["functions"]) == {"length", "stop"}


def test_prompts_are_spread_over_types_and_items(place: Path) -> None:
    records = files.read("data/test.jsonl")
    checked = 0
    for seed in range(20):
        chosen = rollout.draw(records, 7, seed)
        kinds = [row["type"] for row in chosen]
        assert sorted(kinds.count(kind) for kind in TYPES) == [2, 2, 3]
        assert len({row["item"] for row in chosen}) == 7
        assert chosen == [row for row in records if row in chosen]
        checked += 1
    assert checked == 20
    assert rollout.draw(records, 7, 1) != rollout.draw(records, 7, 2)
    assert rollout.draw(records, 99, 1) == records
    assert rollout.draw(records[::-1], 7, 1) == rollout.draw(records, 7, 1)[::-1], "the order of the file has no say"


def test_batch_size_changes_no_byte_and_the_seed_all_texts(place: Path) -> None:
    written = set()
    for size in (1, 5, 64):
        roll(section(batch_size=size))
        written.add(out().read_bytes() + Path("reports/metrics/rollout/tuned.json").read_bytes())
    assert len(written) == 1
    before = [row["text"] for row in files.read(out())]
    drawn = section(prompts=24)
    both = [[row["text"] for row in roll(drawn, seed=seed)] for seed in (1, 2)]
    assert sum(a == b for a, b in zip(*both, strict=True)) < 10
    assert set(before) <= set(both[0]), "more prompts draw the same samples for those that were there"


def test_another_weight_draws_the_same_samples(place: Path) -> None:
    texts = [row["text"] for row in roll()]
    found = roll(given=rewards(length=5.0, name=1.0, stop=0.0))
    assert [row["text"] for row in found] == texts
    assert set(found[0]["rewards"]) == {"length", "name"}


def test_the_tuned_model_is_the_one_with_the_adapter(place: Path, models: Path) -> None:
    tuned = out().read_bytes() if roll() else b""
    (place / "models").unlink()
    (place / "models").mkdir()
    (place / "models/base").symlink_to(models / "base")
    micro.lora(loading.load("models/base", "float32"), place / "models/adapter", seed=8)
    roll()
    assert out().read_bytes() != tuned


def test_no_prompts_or_no_aligned_model_give_empty_files(place: Path) -> None:
    nothing: list[tuple[rollout.System, rollout.Rollout]] = [("tuned", section(prompts=0)), ("aligned", section())]
    for system, drawn in nothing:
        rollout.main(system, rewards(stop=0.0), drawn, rules(), 1, 1)
        assert out(system).read_bytes() == b""
        assert metrics(system) == {"n": 0, "refusals": []}


def test_the_aligned_model_gets_the_same_prompts_and_seeds(place: Path, models: Path) -> None:
    (place / "models").unlink()
    micro.base(place / "models/merged")
    (place / "models/merged/align.json").write_text("{}")
    rollout.main("aligned", rewards(), section(), rules(), 1, 1)
    (place / "models/merged").rename(place / "models/base")
    adapter = place / "models/adapter"
    micro.lora(loading.load("models/base", "float32"), adapter)
    import safetensors.torch

    weights = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    zero = {name: value * ("lora_A" in name) for name, value in weights.items()}
    safetensors.torch.save_file(zero, adapter / "adapter_model.safetensors", {"format": "pt"})
    roll()
    assert out().read_bytes() == out("aligned").read_bytes(), "an adapter of zeros is the base, and so is merged here"


@pytest.mark.parametrize(
    ("weights", "band", "name"),
    [({"name": 1.0}, (8, 12), "constant"), ({"length": 1.0}, (4000, 5000), "length")],
)
def test_planted_traps_are_refused_by_name(
    place: Path, weights: dict[str, float], band: tuple[int, int], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No text of random weights holds the name; up to 4000 characters the reward of length is the length."""
    drawn = section(prompts=24, samples=4)
    rollout.main("tuned", rewards(**weights), drawn, rules(*band), 1, 1)
    (line,) = metrics()["refusals"]
    assert line.startswith(f"{name}: ")
    assert len(files.read(out())) == 96
    assert f"not to be trained on: {name}: " in capsys.readouterr().out


def test_what_cannot_work_is_refused_before_a_model_is_loaded(place: Path) -> None:
    (place / "models").unlink()
    files.write_json("models/reward/reward.json", {"made": False})
    with pytest.raises(UserError, match=r"params.yaml: rewards.weights.model: 1 needs models/reward"):
        roll(given=rewards(model=1.0))
    with pytest.raises(UserError, match=r"models/density/density.json: no such file"):
        roll(given=rewards(in_distribution=1.0))
    with pytest.raises(UserError, match=r"params.yaml: rewards.weights: all are 0"):
        roll(given=rewards(stop=0.0))
    assert not out().exists()


def test_a_prompt_that_does_not_fit_is_named(place: Path) -> None:
    with pytest.raises(UserError, match=r"p\d+/\w+/0: \d+ tokens .* the model takes 512; lower rollout.max_new_tokens"):
        roll(section(max_new_tokens=510))


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roll()
    whole = out().read_bytes()
    out().unlink()
    assert not list((place / ".work/rollout").iterdir())
    killed = ending.after_writes(place, 2, "from tests.stages import test_rollout", "test_rollout.roll()")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out().exists()
    (parts,) = (place / ".work/rollout").iterdir()
    done = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(done) == 2
    capsys.readouterr()
    seen, original = [], files.write

    def watched(path: Path, records: Any) -> None:
        seen.append(Path(path))
        original(path, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write", watched)
        roll()
    # 21 samples in batches of 8: two lay there, the third was made, then the rows.
    assert [path.name for path in seen] == ["00002.jsonl", "tuned.jsonl"]
    assert out().read_bytes() == whole
    assert not list((place / ".work/rollout").iterdir())
    told = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == [f"rollout: {n} of 21 rows" for n in (8, 16, 21)]


def test_finished_batches_belong_to_weights_prompts_and_settings(place: Path, models: Path) -> None:
    def mark(drawn: rollout.Rollout, seed: int = 1, threads: int = 1) -> str:
        records = rollout.draw(files.read("data/test.jsonl"), drawn.prompts, seed)
        jobs = rollout.plan(records, drawn, micro.tokenizer(), None, seed)
        return rollout.unfinished("tuned", jobs, drawn, threads)

    first = mark(section())
    assert mark(section(max_zero_spread=0.1)) == first
    changes = ({"prompts": 8}, {"samples": 4}, {"temperature": 1.0}, {"max_new_tokens": 9}, {"batch_size": 4})
    others = {mark(section(**change)) for change in changes} | {mark(section(), 2), mark(section(), 1, 2)}
    (place / "models").unlink()
    (place / "models").mkdir()
    (place / "models/base").symlink_to(models / "base")
    micro.lora(loading.load("models/base", "float32"), place / "models/adapter", seed=8)
    others.add(mark(section()))
    assert len(others - {first}) == 8
