"""Random models of a few thousand weights and a byte-level tokenizer: the real libraries in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer(template: str | None = TEMPLATE) -> Any:
    """A byte-level tokenizer with a handful of merges; its regex is Qwen2's, so that every class loads it the same."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["the quick brown fox and the lazy dog", "今天天气很好，今天很好。"] * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def model(kind: str = "qwen2", tied: bool = True, seed: int = 0, vocabulary: int = 304) -> Any:
    """A random model: qwen2, llama or gpt2 (whose layers are Conv1D, weights stored as input x output)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=512, **shape)).eval()
    shape |= {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    }
    known: dict[str, Any] = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
    config, made = known[kind]
    return made(config(**shape)).eval()


def base(folder: Path, kind: str = "qwen2", tied: bool = True, shard: str = "1GB", dtype: str | None = None) -> Path:
    """models/base as the base stage leaves it, of one file or, with a small `shard`, of several."""
    made = model(kind, tied)
    if dtype:
        import torch

        made = made.to(getattr(torch, dtype))
    made.save_pretrained(folder, max_shard_size=shard)
    tokenizer().save_pretrained(folder)
    (folder / "base.json").write_text(json.dumps({"name": "tiny", "revision": None}) + "\n")
    return folder


def lora(weights: Any, folder: Path, seed: int = 5, **options: Any) -> Any:
    """A LoRA adapter with random numbers in every part of it, saved; gives the PEFT model."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    found = get_peft_model(weights, LoraConfig(**config))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(found.named_parameters()):
            if "magnitude" in name:
                weight.mul_(torch.rand(weight.shape, generator=draw) + 0.5)
            elif weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
    found.save_pretrained(folder)
    return found.eval()
