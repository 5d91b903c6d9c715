"""Loads the base model and its tokenizer onto the best device.

Every stage that needs weights loads them here, so that all agree on the pinned revision, the dtype and the number of
threads, and a tokenizer that loses text is refused before it costs a training run.
"""

from __future__ import annotations

import contextlib
import json
import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anneal.errors import UserError
from anneal.params import Section

if TYPE_CHECKING:
    import torch

TINY = "tiny"
# Texts that a tokenizer must return unchanged: Chinese characters, also rare ones of four bytes; full-width
# punctuation, half of which an NFKC normaliser rewrites; white space, which some tokenizers strip. All are in Unicode
# NFC, which some tokenizers apply by design.
_HAN = [*range(0x4E00, 0x9FA6, 97), *range(0x3400, 0x4DB6, 331), *range(0x20000, 0x2A6D7, 2111)]
PROBES = (
    *("".join(map(chr, _HAN[start : start + 12])) for start in range(0, len(_HAN), 12)),
    "\U0001f469\u200d\U0001f52c",
    "plain English, don't; (really)?",
    "0123456789 3.14 50% -7 1,000",
    ",.!?;:\"'()<>[]{}/\\|-_=+*&^%$#@~`",
    "，。！？；：“”‘’（）《》【】、…—～",
    "５０ｍｌ and ½ cup",
    "line\nline\n\n    indented\tafter a tab",
)
_SAMPLES = 1000  # ids of the vocabulary that are decoded; all of 150,000 would take a second per start
_MESSAGE = 300  # characters of a library's error that a UserError quotes


class Model(Section):
    """The base model: `tiny` is built by the base stage; any other name is a hub name or a folder."""

    name: str
    revision: str | None


def quiet() -> None:
    """Switch off the progress bars and warnings of transformers; its errors become one UserError line instead."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read once, when the hub client is imported
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def pinned(folder: str | Path = "models/base") -> tuple[str, str | None]:
    """Name and revision of the weights: the folder itself, or the pair that its base.json pins."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; `dvc repro` makes it")
    note = folder / "base.json"
    if not note.exists():
        return str(folder), None
    try:
        base = json.loads(note.read_text("utf-8"))
        name, revision = base["name"], base["revision"]
    except (ValueError, TypeError, KeyError) as err:
        raise UserError(
            f'{note}: expected {{"name", "revision"}} ({type(err).__name__}); run `dvc repro base`'
        ) from None
    return (str(folder), None) if name == TINY else (name, revision)


def device() -> str:
    """CUDA, then MPS, then CPU; ANNEAL_DEVICE (cpu, mps, cuda, cuda:1 ...) overrides."""
    import torch

    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    name = os.environ.get("ANNEAL_DEVICE") or best
    kind, _, number = name.partition(":")
    counts = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}
    if not (number or "0").isdigit() or int(number or 0) >= counts.get(kind, 0):
        raise UserError(f"ANNEAL_DEVICE: {name} is not on this machine; unset it or name one of {best}, cpu")
    return name


def dtype(name: str | None = None) -> torch.dtype:
    """The torch dtype of that name. `auto` (or None) is float32 off CUDA, where it is exact across batch sizes; on CUDA
    it is bfloat16, or float16 on cards before Ampere, which only emulate bfloat16.
    """
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name in (None, "auto"):
        if not device().startswith("cuda"):
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name not in dtypes:
        raise UserError(f"dtype: one of auto, {', '.join(dtypes)}, got {name!r}")
    return dtypes[name]


def threads(n: int) -> None:
    """Pin torch to `n` threads and, on the CPU, to deterministic kernels: sums in another order give another model.

    A stage calls it before anything imports torch, which reads the environment once.
    """
    # Waiting threads sleep: on a busy machine two that spin took 8.9 CPU seconds for the work of 1.0.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.update(OMP_NUM_THREADS=str(n), MKL_NUM_THREADS=str(n), OPENBLAS_NUM_THREADS=str(n))
    import torch

    torch.set_num_threads(n)
    with contextlib.suppress(RuntimeError):  # torch accepts it once only, before the first parallel work
        torch.set_num_interop_threads(1)
    if device() == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _lost(tokenizer: Any) -> tuple[str, str] | None:
    """The first text that encode and decode change, and the text that they return; None if there is none."""

    def roundtrip(text: str, skip: bool) -> str:
        ids = tokenizer.encode(text, add_special_tokens=False)
        return str(tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False))

    # Plain text is decoded as answers are, without special tokens: byte tokens declared special lose emoji there.
    for text in PROBES:
        decoded = roundtrip(text, skip=True)
        if decoded != text:
            return text, decoded
    # Added tokens: all of the chat template, and a sample of the others.
    added, template = sorted(tokenizer.get_added_vocab()), str(tokenizer.chat_template)
    for token in [token for token in added if token in template] + added[:: len(added) // _SAMPLES + 1]:
        decoded = roundtrip(token, skip=False)
        if decoded != token:
            return token, decoded
    for number in range(0, len(tokenizer), len(tokenizer) // _SAMPLES + 1):
        text = str(tokenizer.decode([number], skip_special_tokens=True, clean_up_tokenization_spaces=False))
        # Half a character decodes to U+FFFD, and NFC tokenizers have entries that NFC changes: neither is a loss.
        if not text or "\ufffd" in text or not unicodedata.is_normalized("NFC", text):
            continue
        decoded = roundtrip(text, skip=True)
        if decoded != text:
            return text, decoded
    return None


def tokenizer(folder: str | Path = "models/base") -> Any:
    """The folder's tokenizer with left padding. UserError if it loses text or has no chat template.

    Trap: for a qwen2 config transformers 5.23 rebuilds the normaliser and pre-tokenizer and ignores those of
    tokenizer.json without a warning; Chinese then encodes to no tokens and every training row is empty.
    """
    pinned(folder)
    from transformers import AutoTokenizer

    quiet()
    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as err:
        reason = first_line(err).rstrip(".")
        raise UserError(f"{folder}: no tokenizer could be loaded: {reason}; run `dvc repro base`") from None
    if not loaded.chat_template:
        raise UserError(
            f"{folder}/chat_template.jinja: missing; add the model's chat template or take its chat version"
        )
    if lost := _lost(loaded):
        text, decoded = lost
        name = type(loaded).__name__
        raise UserError(f"{folder}: {name} loses text: {text!r} comes back as {decoded!r}; correct its files")
    # tokenizer_config.json does not store padding_side; with right padding answers would continue the padding.
    loaded.padding_side = "left"
    if loaded.pad_token is None:
        loaded.pad_token = loaded.unk_token or loaded.eos_token
    return loaded


def first_line(err: Exception) -> str:
    """The first line of an error that is not empty, cut to a readable length; the error's name if there is none."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return (lines[0] if lines else type(err).__name__)[:_MESSAGE]


def _options(dtype_name: str | None, quantize: str | None) -> dict[str, Any]:
    """Dtype, device and quantisation as arguments of from_pretrained."""
    options: dict[str, Any] = {"dtype": dtype(dtype_name)}
    if (target := device()) != "cpu":
        options["device_map"] = {"": target}  # loads onto the GPU without a second copy in memory
    if quantize not in (None, "nf4"):
        raise UserError(f"quantize: nf4 or empty, got {quantize!r}")
    if not quantize:
        return options
    from transformers import BitsAndBytesConfig

    # NormalFloat4 with the scales quantised once more: Dettmers et al. 2023 (QLoRA).
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return options | {"quantization_config": BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=options["dtype"])}


def load(folder: str | Path = "models/base", dtype: str | None = None, quantize: str | None = None) -> Any:
    """The causal language model of a folder (or of the name it pins), in eval mode on `device()`.

    dtype: `float32`, `bfloat16`, `float16`, `auto`; quantize: None or `nf4`. Only safetensors are read and no
    code that comes with a model is run. UserError if the weights are missing, broken or incomplete.
    """
    name, revision = pinned(folder)
    options = _options(dtype, quantize)
    local = Path(name).is_dir()
    quiet()
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
            **options,
        )
    except Exception as err:
        place = name if local else f"{name}@{revision}"
        advice = "make it again" if local else "check name, network and HF_TOKEN"
        reason = first_line(err).rstrip(".")
        raise UserError(f"{place}: the model could not be loaded: {reason}; {advice}") from None
    # transformers initialises missing weights at random and only warns.
    if missing := sorted(info["missing_keys"]):
        count = f"{len(missing)} weights are missing"
        raise UserError(f"{name}: {count}, the first is {missing[0]}; the file is incomplete")
    return model.eval()
