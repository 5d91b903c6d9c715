"""The merge against PEFT's own, on three architectures, and everything that it must refuse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.dataset import chat_template
from anneal.errors import UserError
from anneal.models import loading, lora_merge, weights
from stages import merge
from tests import micro

ROOT = Path(__file__).resolve().parents[2]


def section(dtype: str = "float32", prompts: int = 4, tolerance: float = 1e-3) -> merge.Merge:
    return merge.Merge.model_validate({"dtype": dtype, "prompts": prompts, "tolerance": tolerance})


@pytest.fixture(autouse=True)
def _cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    monkeypatch.setattr(loading, "threads", lambda _: None)


@pytest.fixture
def place(toy: Path) -> Path:
    """A checkout with validation records; a test puts its base and its adapter there."""
    turns = [("今天天气很好", "很好，很好。"), ("the quick fox", "the lazy dog"), ("天", "a b c"), ("x" * 40, "今")]
    files.write(
        "data/validation.jsonl",
        [
            {
                "id": f"p{n}/kind/0",
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": reply}],
            }
            for n, (question, reply) in enumerate(turns * 2)
        ],
    )
    return toy


def proof() -> dict[str, Any]:
    return dict(json.loads(Path("reports/metrics/merge.json").read_text()))


def ids() -> Any:
    import torch

    return torch.arange(3, 43)[None]


CASES: dict[str, tuple[str, bool, str, dict[str, Any]]] = {
    "qwen2": ("qwen2", True, "1GB", {}),
    "qwen2-shards": ("qwen2", False, "4KB", {}),
    "llama-rslora": ("llama", True, "8KB", {"use_rslora": True}),
    "llama-dora": ("llama", False, "1GB", {"use_dora": True}),
    "gpt2": ("gpt2", True, "1GB", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2-dora": ("gpt2", True, "16KB", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True}),
    "ranks": (
        "qwen2",
        False,
        "1GB",
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 40}},
    ),
    "biases": ("qwen2", True, "1GB", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "trained-biases": ("qwen2", True, "1GB", {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "whole-head": ("llama", False, "8KB", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "embedding": ("qwen2", False, "1GB", {"target_modules": ["q_proj", "embed_tokens"]}),
    "tied-both": (
        "qwen2",
        True,
        "1GB",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_merge_agrees_with_peft(case: str, place: Path) -> None:
    import torch

    kind, tied, shard, options = CASES[case]
    micro.base(Path("models/base"), kind, tied, shard)
    beside = micro.lora(loading.load(dtype="float32"), Path("models/aligned"), **options)
    with torch.inference_mode():
        wanted = beside(ids()).logits
    oracle = beside.merge_and_unload().state_dict()
    merge.main(section(), threads=1)
    found = loading.load("models/merged", "float32")
    weights = found.state_dict()
    assert set(weights) == set(oracle)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, oracle[name], rtol=1e-5, atol=2e-6, msg=name)
    with torch.inference_mode():
        assert float((found(ids()).logits - wanted).abs().max()) < 1e-4
    numbers = proof()
    assert numbers["largest_difference"] < 1e-4
    assert numbers["greedy_match"] == 1.0
    assert numbers["prompts"] == 4
    assert numbers["places"] > 20
    assert numbers["tied"] is tied
    assert 0 < numbers["changed"] <= numbers["tensors"]
    files = [p.name for p in Path("models/merged").glob("*.safetensors")]
    assert (len(files) > 1) is (shard != "1GB")
    assert Path("models/merged", lora_merge.INDEX).exists() is (len(files) > 1)


@pytest.fixture
def tuned(place: Path) -> Path:
    micro.base(Path("models/base"))
    micro.lora(loading.load(dtype="float32"), Path("models/aligned"))
    return place


def test_only_what_learnt_preferences_is_marked_as_aligned(tuned: Path) -> None:
    merge.main(section(), threads=1)
    assert not weights.present("aligned")
    Path("models/aligned/align.json").write_text('{"method": "dpo"}')
    merge.main(section(), threads=1)
    assert weights.present("aligned")
    assert json.loads(Path("models/merged/align.json").read_text()) == {"method": "dpo"}


def test_the_merged_folder_stops_by_itself_in_plain_transformers(tuned: Path) -> None:
    # The base names another eos than its template writes, as Qwen2.5 base checkpoints do.
    path = Path("models/base/generation_config.json")
    path.write_text(json.dumps({"eos_token_id": 1, "do_sample": True, "temperature": 0.6}))
    merge.main(section(), threads=1)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights, tokenizer = (
        AutoModelForCausalLM.from_pretrained("models/merged"),
        AutoTokenizer.from_pretrained("models/merged"),
    )
    generation = weights.generation_config
    assert generation.eos_token_id == chat_template.stop_ids(loading.tokenizer("models/merged")) == [2, 1]
    assert generation.pad_token_id == 0
    assert (generation.do_sample, generation.temperature) == (True, 0.6)
    assert tokenizer.chat_template == micro.TEMPLATE
    assert str(weights.dtype) == "torch.float32"
    assert proof()["stop_ids"] == [2, 1]
    assert not Path("models/merged/base.json").exists()


def test_the_same_inputs_give_the_same_bytes_and_no_path(tuned: Path) -> None:
    seen = []
    for _ in range(2):
        merge.main(section(), threads=1)
        seen.append({p.name: p.read_bytes() for p in sorted(Path("models/merged").iterdir())})
        shutil.rmtree("models/merged")
    assert seen[0] == seen[1]
    assert len(seen[0]) >= 6
    assert [name for name, content in seen[0].items() if str(tuned).encode() in content or b".tmp" in content] == []


def test_a_bfloat16_base_is_merged_in_full_precision_or_at_the_cost_that_is_named(place: Path) -> None:
    micro.base(Path("models/base"), dtype="bfloat16")
    micro.lora(loading.load(dtype="float32"), Path("models/aligned"))
    merge.main(section("float32"), threads=1)
    assert proof()["largest_difference"] < 1e-4
    assert str(loading.load("models/merged", "float32").dtype) == "torch.float32"
    for dtype in ("bfloat16", "base"):
        with pytest.raises(
            UserError, match=r"merge.tolerance: merged and adapter-on-base differ by up to \S+ of a logit"
        ):
            merge.main(section(dtype), threads=1)
        merge.main(section(dtype, tolerance=5.0), threads=1)
        assert 1e-3 < proof()["largest_difference"] < 5.0
        assert json.loads(Path("models/merged/config.json").read_text())["dtype"] == "bfloat16"
        assert proof()["dtype"] == "bfloat16"


def test_a_merge_that_fails_leaves_no_model(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = lora_merge.Adapter.apply
    monkeypatch.setattr(lora_merge.Adapter, "apply", lambda self, name, weight: 1.01 * original(self, name, weight))
    with pytest.raises(UserError, match=r"more than 0\.001"):
        merge.main(section(), threads=1)
    assert sorted(p.name for p in Path("models").iterdir()) == ["aligned", "base"]
    assert not Path("reports").exists()


def test_a_quantised_base_is_refused(tuned: Path) -> None:
    path = Path("models/base/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match=r"models/base/config.json: the weights are quantised \(gptq\)"):
        merge.main(section(), threads=1)


def test_an_adapter_of_another_model_is_refused_by_its_first_weight(tuned: Path) -> None:
    shutil.rmtree("models/aligned")
    micro.lora(micro.model("gpt2"), Path("models/aligned"), target_modules=["c_attn"], fan_in_fan_out=True)
    with pytest.raises(
        UserError, match=r"transformer.h.0.attn.c_attn.weight \[16, 48\] is not in the base; the adapter"
    ):
        merge.main(section(), threads=1)
    shutil.rmtree("models/aligned")
    micro.lora(loading.load(dtype="float32"), Path("models/aligned"))
    _resize(Path("models/aligned/adapter_model.safetensors"), "lora_B", 2)
    with pytest.raises(
        UserError, match=r"weight \[\d+, \d+\] is \[\d+, \d+\] in the base; the adapter is not of this model"
    ):
        merge.main(section(), threads=1)


def _resize(path: Path, part: str, factor: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    grown = {k: torch.cat([v] * factor) if part in k else v for k, v in weights.items()}
    assert any(part in name for name in grown)
    save_file(grown, path, {"format": "pt"})


def test_other_adapters_are_refused(tuned: Path) -> None:
    path = Path("models/aligned/adapter_config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"peft_type": "LOHA"}))
    with pytest.raises(UserError, match="peft_type LOHA; only LORA is merged"):
        merge.main(section(), threads=1)
    path.unlink()
    with pytest.raises(UserError, match=r"adapter_config.json: no such file; `dvc repro align` makes it"):
        merge.main(section(), threads=1)
    path.write_text(json.dumps(config))
    weights = Path("models/aligned/adapter_model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(UserError, match="models/aligned: the adapter could not be read"):
        merge.main(section(), threads=1)
    weights.unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors"):
        merge.main(section(), threads=1)


def test_parts_that_have_no_place_in_a_merge_are_refused(place: Path) -> None:
    micro.base(Path("models/base"), tied=False)
    micro.lora(
        loading.load(dtype="float32"), Path("models/aligned"), target_modules=["q_proj"], trainable_token_indices=[1, 2]
    )
    with pytest.raises(UserError, match=r"trainable_tokens_delta .* is not in the base"):
        merge.main(section(), threads=1)


@pytest.mark.parametrize("where", [{"target_modules": ["embed_tokens"]}, {"modules_to_save": ["embed_tokens"]}])
def test_one_side_of_tied_embeddings_is_refused(where: dict[str, Any], place: Path) -> None:
    micro.base(Path("models/base"), tied=True)
    options = {"target_modules": ["q_proj"]} | where
    micro.lora(loading.load(dtype="float32"), Path("models/aligned"), **options)
    with pytest.raises(UserError, match=r"changes one of model.embed_tokens.weight and lm_head.weight, which are tied"):
        merge.main(section(), threads=1)


def test_tied_sides_that_differ_are_refused(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    kind, tied, shard, options = CASES["tied-both"]
    micro.base(Path("models/base"), kind, tied, shard)
    micro.lora(loading.load(dtype="float32"), Path("models/aligned"), **options)
    path = Path("models/aligned/adapter_model.safetensors")
    weights = load_file(path)
    weights["base_model.model.lm_head.weight"] += 1
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"lm_head.weight and model.embed_tokens.weight are tied and differ"):
        merge.main(section(), threads=1)


def test_an_adapter_that_changes_nothing_is_refused(tuned: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = Path("models/aligned/adapter_model.safetensors")
    save_file({k: v * ("lora_A" in k) for k, v in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(UserError, match="changes no weight"):
        merge.main(section(), threads=1)


def test_numbers_that_are_none_are_no_proof(tuned: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = Path("models/aligned/adapter_model.safetensors")
    weights = load_file(path)
    weights["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][0, 0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match="differ by up to nan of a logit"):
        merge.main(section(), threads=1)


def test_one_bad_place_among_many_is_seen() -> None:
    import torch

    before = [torch.zeros(3, 5), torch.zeros(4, 5), torch.zeros(2, 5)]
    for bad in (float("nan"), 7.0):
        after = [tensor.clone() for tensor in before]
        after[1][2, 3] = bad
        found = merge.compare(before, after, [4])
        assert str(found["largest_difference"]) == str(bad)
        assert (found["prompts"], found["places"], found["greedy_match"]) == (3, 9, 8 / 9)
        assert found["stops_after_golden"] == 0.0


def test_a_stop_that_the_model_cannot_write_is_refused() -> None:
    import torch

    with pytest.raises(UserError, match=r"stop tokens \[5\] lie beyond its 5 words"):
        merge.compare([torch.zeros(3, 5)], [torch.zeros(3, 5)], [4, 5])


def test_a_record_that_cannot_be_masked_is_named(tuned: Path) -> None:
    records = files.read("data/validation.jsonl")
    records[0]["completion"][0]["role"] = "user"
    files.write("data/validation.jsonl", records)
    with pytest.raises(UserError, match=r"data/validation.jsonl: p0/kind/0: the completion does not end with"):
        merge.main(section(), threads=1)


def test_a_base_file_without_the_model_prefix_is_matched(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    micro.base(Path("models/base"), "gpt2")
    path = Path("models/base/model.safetensors")
    save_file({k.removeprefix("transformer."): v for k, v in load_file(path).items()}, path, {"format": "pt"})
    micro.lora(loading.load(dtype="float32"), Path("models/aligned"), target_modules=["c_attn"], fan_in_fan_out=True)
    merge.main(section(), threads=1)
    assert proof()["changed"] == 2
    assert proof()["largest_difference"] < 1e-4


def test_the_prompts_are_spread_over_the_file(tuned: Path) -> None:
    merge.main(section(prompts=3), threads=1)
    assert proof()["prompts"] == 3
    merge.main(section(prompts=500), threads=1)
    assert proof()["prompts"] == 8


@pytest.mark.slow
def test_transformers_serve_answers_an_openai_client(tuned: Path) -> None:
    import socket
    import time

    import openai

    merge.main(section(), threads=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Without a cache folder /v1/models answers 500.
    cache = tuned / "cache" / "hub"
    cache.mkdir(parents=True)
    folder = str(Path("models/merged").resolve())
    words = [
        str(Path(sys.executable).parent / "transformers"),
        "serve",
        folder,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "HF_HOME": str(tuned / "cache"), "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    with (tuned / "log").open("w") as log:
        server = subprocess.Popen([*words, "--device", "cpu"], env=environment, stdout=log, stderr=log)
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
        for _ in range(240):
            assert server.poll() is None, (tuned / "log").read_text()[-3000:]
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(0.5)
        talk: Any = files.read("data/validation.jsonl")[0]["prompt"]
        reply = client.chat.completions.create(model=folder, messages=talk, max_tokens=8, temperature=0)
        served = reply.choices[0]
    finally:
        server.terminate()
        server.wait(30)
    tokenizer, weights = loading.tokenizer("models/merged"), loading.load("models/merged", "float32")
    import torch

    start = torch.tensor([chat_template.prompt_ids(tokenizer, talk)])
    new = weights.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=8, do_sample=False)[
        0, start.shape[1] :
    ]
    assert served.message.content == tokenizer.decode(new, skip_special_tokens=True)
    assert served.finish_reason in {"stop", "length"}
