"""The model and its tokenizer: found, proven and put on the best device there is.

Every stage that needs weights comes through here, so that all agree on the pinned revision, the number type and the
thread count, and a tokenizer that loses text is refused before it costs a training run.
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
# Chinese characters, also rare ones of four bytes; full-width punctuation, half of which an NFKC normaliser rewrites;
# blanks, which some tokenizers strip. All are in Unicode NFC, which some tokenizers apply by design.
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
_SAMPLES = 1000  # ids of the vocabulary that are tried; all of 150,000 would cost a second per start


class Model(Section):
    """What to tune: `tiny` is built by the base stage; any other name is a hub name or a folder."""

    name: str
    revision: str | None


def quiet() -> None:
    """No progress bars and no advice on stderr; errors of these libraries become one UserError line instead."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read once, when the hub client is imported
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def pinned(folder: str | Path = "models/base") -> tuple[str, str | None]:
    """Where the weights are: the folder itself, or the (name, revision) that its base.json pins."""
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

    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    wanted = os.environ.get("ANNEAL_DEVICE") or found
    kind, _, number = wanted.partition(":")
    there = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}
    if not (number or "0").isdigit() or int(number or 0) >= there.get(kind, 0):
        raise UserError(f"ANNEAL_DEVICE: {wanted} is not on this machine; unset it or name one of {found}, cpu")
    return wanted


def dtype(wanted: str | None = None) -> torch.dtype:
    """The torch dtype of that name. `auto` (or None) is float32 off CUDA, where it is exact across batch sizes; on CUDA
    it is bfloat16, or float16 on cards before Ampere, which only emulate bfloat16.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if wanted in (None, "auto"):
        able = device().startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if able else torch.float16 if device().startswith("cuda") else torch.float32
    if wanted not in known:
        raise UserError(f"dtype: one of auto, {', '.join(known)}, got {wanted!r}")
    return known[wanted]


def threads(n: int) -> None:
    """Pin torch to `n` threads and, on the CPU, to deterministic kernels: a sum in another order is another model."""
    # Waiting threads sleep: on a busy machine two that spin took 8.9 CPU seconds for the work of 1.0. It is read once,
    # when torch is imported, so that a stage calls this first.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.update(OMP_NUM_THREADS=str(n), MKL_NUM_THREADS=str(n), OPENBLAS_NUM_THREADS=str(n))
    import torch

    torch.set_num_threads(n)
    with contextlib.suppress(RuntimeError):  # it can only be set once, before the first parallel work
        torch.set_num_interop_threads(1)
    if device() == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _lost(tokenizer: Any) -> tuple[str, str] | None:
    """The first text that does not survive encode and decode, and what came back; None when all do."""

    def back(text: str, skip: bool) -> str:
        ids = tokenizer.encode(text, add_special_tokens=False)
        return str(tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False))

    # Plain text is decoded as answers are, without special tokens: byte tokens declared special lose emoji there.
    for text in PROBES:
        if (came := back(text, skip=True)) != text:
            return text, came
    added, template = sorted(tokenizer.get_added_vocab()), str(tokenizer.chat_template)
    for token in [t for t in added if t in template] + added[:: len(added) // _SAMPLES + 1]:
        if (came := back(token, skip=False)) != token:
            return token, came
    for number in range(0, len(tokenizer), len(tokenizer) // _SAMPLES + 1):
        text = str(tokenizer.decode([number], skip_special_tokens=True, clean_up_tokenization_spaces=False))
        # Half a character decodes to U+FFFD, and NFC tokenizers hold entries that NFC changes: neither is a loss.
        whole = text and "\ufffd" not in text and unicodedata.is_normalized("NFC", text)
        if whole and (came := back(text, skip=True)) != text:
            return text, came
    return None


def tokenizer(folder: str | Path = "models/base") -> Any:
    """The folder's tokenizer, padding left, proven to return the text it was given and to know a chat template.

    Trap: for a qwen2 config transformers 5.23 rebuilds the normaliser and pre-tokenizer itself and ignores those of
    tokenizer.json, without a word; Chinese then encodes to nothing and every training row is empty.
    """
    pinned(folder)
    from transformers import AutoTokenizer

    quiet()
    try:
        found = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as err:
        raise UserError(f"{folder}: no tokenizer could be loaded: {_line(err)}; run `dvc repro base`") from None
    if not found.chat_template:
        raise UserError(
            f"{folder}/chat_template.jinja: missing; add the model's chat template or take its chat version"
        )
    if lost := _lost(found):
        raise UserError(f"{folder}: {type(found).__name__} loses text: {lost[0]!r} comes back as {lost[1]!r}; mend it")
    # padding_side is not kept in tokenizer_config.json; right padding makes answers start in mid-sentence.
    found.padding_side = "left"
    if found.pad_token is None:
        found.pad_token = found.unk_token or found.eos_token
    return found


def _line(err: Exception) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)[:300].rstrip(".")


def _options(wanted: str | None, quantize: str | None) -> dict[str, Any]:
    """Number type, place and quantisation as from_pretrained takes them."""
    options: dict[str, Any] = {"dtype": dtype(wanted)}
    if (place := device()) != "cpu":
        options["device_map"] = {"": place}  # straight to the card, never a second copy in memory
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
    code that comes with a model is run. Refuses when the weights are missing, broken or incomplete.
    """
    name, revision = pinned(folder)
    options, local = _options(dtype, quantize), Path(name).is_dir()
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
        where, todo = (name, "make it again") if local else (f"{name}@{revision}", "check name, network and HF_TOKEN")
        raise UserError(f"{where}: the model could not be loaded: {_line(err)}; {todo}") from None
    # transformers fills in missing weights at random and only warns about it.
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{name}: {len(missing)} weights are missing, the first is {missing[0]}; the file is not whole")
    return model.eval()
