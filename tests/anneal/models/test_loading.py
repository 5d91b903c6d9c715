"""The check of a tokenizer, and the refusal of incomplete weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from anneal.errors import UserError
from anneal.models import loading
from tests import micro


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.base(tmp_path_factory.mktemp("micro") / "base")


@pytest.fixture
def base(shared: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    import shutil

    return Path(shutil.copytree(shared, tmp_path / "base"))


def test_the_tokenizer_comes_back_ready_for_generation(shared: Path) -> None:
    found = loading.tokenizer(shared)
    assert found.padding_side == "left"
    assert found.pad_token_id == 0
    assert found.decode(found.encode("今天 hello\n，。")) == "今天 hello\n，。"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_other_architectures_pass_the_check(kind: str, tmp_path: Path) -> None:
    assert len(loading.tokenizer(micro.base(tmp_path, kind))) == 300


def test_a_tokenizer_that_is_silently_replaced_is_refused_with_the_text(base: Path) -> None:
    # A character-level vocabulary without byte letters: Qwen2Tokenizer puts its own pre-tokenizer before it.
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({c for text in loading.PROBES for c in text})
    vocabulary = {c: i for i, c in enumerate([*micro.SPECIAL, *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    own = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=micro.TEMPLATE
    )
    own.save_pretrained(base)
    with pytest.raises(UserError, match=r"base: Qwen2Tokenizer loses text: '.+' comes back as '"):
        loading.tokenizer(base)


def _edit(base: Path, change: Any) -> None:
    path = base / "tokenizer.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_normaliser_that_rewrites_punctuation_is_refused(tmp_path: Path) -> None:
    base = micro.base(tmp_path, "llama")
    _edit(base, lambda v: v.update(normalizer={"type": "NFKC"}))
    with pytest.raises(UserError, match=r"'，。！？.*' comes back as ',"):
        loading.tokenizer(base)


def test_a_byte_that_is_declared_special_is_refused(tmp_path: Path) -> None:
    base = micro.base(tmp_path, "llama")

    def change(value: Any) -> None:
        token = {"id": value["model"]["vocab"]["ð"], "content": "ð", "special": True}
        flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
        value["added_tokens"].append(token | flags)

    _edit(base, change)
    with pytest.raises(UserError, match="comes back as"):
        loading.tokenizer(base)


def test_an_added_token_that_changes_is_refused(shared: Path) -> None:
    found = loading.tokenizer(shared)
    assert loading._lost(found) is None

    class Deaf:
        """Knows everything but the token that opens a turn."""

        chat_template = found.chat_template

        def __len__(self) -> int:
            return len(found)

        def encode(self, text: str, **options: Any) -> Any:
            return found.encode(text.replace("<|im_start|>", "<|im_start>"), **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(found, name)

    assert loading._lost(Deaf()) == ("<|im_start|>", "<|im_start>")


def test_a_folder_without_a_chat_template_is_refused_by_file(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"base/chat_template.jinja: missing; add"):
        loading.tokenizer(base)


def test_a_missing_folder_and_a_missing_tokenizer_are_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        loading.tokenizer(tmp_path / "nowhere")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    with pytest.raises(UserError, match="base: "):
        loading.tokenizer(base)


def test_load_gives_the_saved_weights_in_eval_mode(shared: Path) -> None:
    import torch

    made = micro.model().state_dict()
    found = loading.load(shared)
    assert not found.training
    assert found.dtype == loading.dtype()
    assert sum(torch.equal(made[k], v.float().cpu()) for k, v in found.state_dict().items()) == len(made)
    assert loading.load(shared, "bfloat16").dtype == torch.bfloat16


def test_broken_cut_and_absent_weights_are_refused_in_one_line(base: Path) -> None:
    weights = base / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[: len(whole) // 2], b"\xff" * 64, b""):
        weights.write_bytes(broken)
        with pytest.raises(UserError, match=r"base: the model could not be loaded: .+; make it again") as caught:
            loading.load(base)
        assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(UserError, match="could not be loaded"):
        loading.load(base)


def test_pickled_weights_are_not_read(base: Path) -> None:
    import torch

    torch.save(micro.model().state_dict(), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match="could not be loaded"):
        loading.load(base)


def test_a_missing_weight_is_refused(base: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing, the first is model.layers.1.mlp.up_proj.weight"):
        loading.load(base)


def test_a_named_model_is_found_by_name_and_revision(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "base.json").write_text('{"name": "someone/something", "revision": "0123abc"}')
    assert loading.pinned(base) == ("someone/something", "0123abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"someone/something@0123abc: the model could not be loaded: .*check name, network"
    ):
        loading.load(base)
    # The tokenizer is kept in the folder and needs no network.
    assert len(loading.tokenizer(base)) == 300
    (base / "base.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match=r"base\.json: expected"):
        loading.pinned(base)


def test_a_folder_without_base_json_is_its_own_model(base: Path) -> None:
    (base / "base.json").unlink()
    assert loading.pinned(base) == (str(base), None)


def test_device_follows_the_environment_and_refuses_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    assert loading.device() == "cpu"
    wrong = ("gpu", "cuda:99", "cuda:x", "cpu:1", "mps:7")
    for name in wrong:
        monkeypatch.setenv("ANNEAL_DEVICE", name)
        with pytest.raises(UserError, match=f"ANNEAL_DEVICE: {name} is not on this machine"):
            loading.device()
    monkeypatch.setenv("ANNEAL_DEVICE", "")
    assert loading.device().split(":")[0] in {"cpu", "cuda", "mps"}


def test_dtype_is_float32_on_the_cpu_and_half_precision_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    assert loading.dtype() is loading.dtype("auto") is torch.float32
    assert loading.dtype("bfloat16") is torch.bfloat16
    monkeypatch.setattr(loading, "device", lambda: "cuda")
    for able, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able, **_: able)
        assert loading.dtype() is expected
    with pytest.raises(UserError, match="dtype: one of auto, float32"):
        loading.dtype("int4")


def test_an_unknown_quantisation_is_refused(shared: Path) -> None:
    with pytest.raises(UserError, match="quantize: nf4 or empty, got 'q4'"):
        loading.load(shared, quantize="q4")


def test_threads_pins_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    import torch

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ANNEAL_DEVICE"):
        monkeypatch.setenv(name, "cpu" if name == "ANNEAL_DEVICE" else "7")
    before = torch.get_num_threads()
    try:
        loading.threads(2)
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)


def test_the_section_takes_no_other_key() -> None:
    assert loading.Model(name="tiny", revision=None).name == "tiny"
    with pytest.raises(ValidationError):
        loading.Model(name="tiny", revision=None, code=True)  # type: ignore[call-arg]
