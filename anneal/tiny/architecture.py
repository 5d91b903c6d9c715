"""Tiny: a small Qwen2 and its tokenizer, made from nothing on one CPU thread.

It is an ordinary checkpoint for whoever loads it. What lets two million parameters copy a name out of a prompt after
minutes: every word worth copying is one token, some heads look at the previous token from the first step on, and the
training that `pretraining` gives it starts with drills of repetition.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from anneal.errors import UserError
from anneal.params import Count, Fraction, Section, Share
from anneal.tiny.documents import END, START, STOP

PAD = "<|pad|>"
SPECIAL = [STOP, START, END, PAD]

# ChatML. The generation marks let a trainer find the assistant's words and the stop token that closes them.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Base(Section):
    """Params section `base`: the corpus, the shape and the schedule of the tiny model."""

    corpus: str
    documents: Literal["sheets", "grammar"]  # what the corpus folder holds: see `corpus` and `grammar`
    seed: int
    threads: Count  # the order of a sum, and so the last bit of a weight, depends on it
    vocab_size: Count  # whole words come first, then the most frequent characters; the rest is spelt in bytes
    hidden_size: Count
    layers: Count
    heads: Count
    key_value_heads: Count
    intermediate_size: Count
    positions: Count  # tokens that the model can look back on
    steps: Count
    batch_size: Count
    max_length: Count
    learning_rate: float
    muon_learning_rate: float
    warmup_steps: Count
    decay: Fraction  # of the steps, at the end, with a falling learning rate
    dense: Share  # of the steps, at the start, that drill repetition

    @model_validator(mode="after")
    def _divides(self) -> Base:
        if self.hidden_size % self.heads or self.heads % self.key_value_heads:
            raise UserError(
                f"params.yaml: base: heads must divide hidden_size and key_value_heads must divide heads, "
                f"got {self.hidden_size}, {self.heads}, {self.key_value_heads}"
            )
        if (self.hidden_size // self.heads) % 2 or self.key_value_heads < 2 or self.layers < 2:
            raise UserError(
                "params.yaml: base: the previous-token heads need an even hidden_size / heads, "
                "two key_value_heads and two layers"
            )
        return self


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level BPE: printable ones for themselves, others from 256 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in kept]
    return {b: chr(b) for b in kept} | {b: chr(256 + n) for n, b in enumerate(rest)}


def tokenizer(words: list[str], characters: list[str], size: int, positions: int = 1024) -> Any:
    """Qwen2's own byte-level BPE in which every word is one token and merges end at a character's border.

    `characters` come by falling frequency and are taken as long as they fit into `size` tokens.
    """
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    letters, merges = _byte_letters(), list[str]()
    vocab = {token: n for n, token in enumerate([*SPECIAL, *letters.values()])}
    room = size - len(words)
    if room < len(vocab):
        raise UserError(
            f"params.yaml: base.vocab_size: {len(words)} words and the bytes need {len(vocab) + len(words)}"
        )
    for character in characters:
        spelt = [letters[b] for b in character.encode()]
        pairs = [("".join(spelt[:n]), spelt[n]) for n in range(1, len(spelt)) if "".join(spelt[: n + 1]) not in vocab]
        if len(vocab) + len(pairs) > room:
            break
        for left, right in pairs:
            merges.append(f"{left} {right}")
            vocab[left + right] = len(vocab)
    made = Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(m.split(" ")) for m in merges],
        unk_token=STOP,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START, STOP],
        model_max_length=positions,
        padding_side="left",
    )
    # AutoTokenizer hands a qwen2 folder to Qwen2Tokenizer, which builds its pre-tokenizer anew: only words that are
    # added tokens survive that, a pre-tokenizer of our own would not.
    made.add_tokens([AddedToken(word, normalized=False, special=False) for word in sorted(words)])
    made.chat_template = TEMPLATE
    return made


def previous_token_heads(model: Any, strength: float = 6.0) -> None:
    """Make heads of the first two layers attend to the token before (and one group to the one before that).

    With rotary positions a constant query and key give a score that depends on the distance alone: k = (1, 0) and
    q = (cos d f, -sin d f) for every frequency f sum to cos((i - j - d) f), which is largest at j = i - d. Qwen2 has
    biases on q and k, so the constants fit into a plain checkpoint.
    """
    import torch

    config = model.config
    width = config.hidden_size // config.num_attention_heads
    share = config.num_attention_heads // config.num_key_value_heads
    f = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, width, 2) / width)
    with torch.no_grad():
        for layer, group, distance in ((0, 0, 1), (0, 1, 2), (1, 0, 1)):
            attention = model.model.layers[layer].self_attn
            keys = slice(group * width, (group + 1) * width)
            queries = slice(group * share * width, (group + 1) * share * width)
            attention.k_proj.weight[keys] *= 0.1
            attention.q_proj.weight[queries] *= 0.1
            attention.k_proj.bias[keys] = strength * torch.cat([torch.ones_like(f), torch.zeros_like(f)])
            query = strength * torch.cat([torch.cos(distance * f), -torch.sin(distance * f)])
            attention.q_proj.bias[queries] = query.repeat(share)


def build(base: Base, tokens: Any) -> Any:
    """An untrained model for this tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    stops = [tokens.convert_tokens_to_ids(t) for t in (END, STOP)]
    config = Qwen2Config(
        vocab_size=len(tokens),
        hidden_size=base.hidden_size,
        num_hidden_layers=base.layers,
        intermediate_size=base.intermediate_size,
        num_attention_heads=base.heads,
        num_key_value_heads=base.key_value_heads,
        tie_word_embeddings=True,
        max_position_embeddings=base.positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.02,
        pad_token_id=tokens.pad_token_id,
        eos_token_id=stops,
        bos_token_id=None,
    )
    torch.manual_seed(base.seed)
    model = Qwen2ForCausalLM(config)
    previous_token_heads(model)
    return model
