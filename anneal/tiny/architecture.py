"""The tiny model: a small Qwen2 and its tokenizer, built without downloads for training on one CPU thread.

Its checkpoint loads like any other. Three measures let two million parameters copy a name out of a prompt after minutes
of training: every word worth copying is one token, some heads attend to the previous token from the first step on, and
the training of `pretrain` starts with drills of repetition.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from anneal.errors import UserError
from anneal.params import Count, Fraction, Section, Share
from anneal.tiny.documents import END, START, STOP

PAD = "<|pad|>"
SPECIAL = [STOP, START, END, PAD]

# ChatML. The generation marks let a trainer find the assistant's tokens and the stop token that closes them.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Base(Section):
    """Params section `base`: the corpus, the shape and the schedule of the tiny model."""

    corpus: str
    documents: Literal["sheets", "grammar"]  # what the corpus folder holds: see `sheet_corpus` and `grammar_corpus`
    seed: int
    threads: Count  # the order of a sum, and so the last bit of a weight, depends on it
    vocab_size: Count  # whole words, then the most frequent characters; all else is encoded in bytes
    hidden_size: Count
    layers: Count
    heads: Count
    key_value_heads: Count
    intermediate_size: Count
    positions: Count  # tokens of the context
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
    """Byte -> its letter in a byte-level BPE, as in GPT-2: printable bytes are themselves, others count from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def tokenizer(words: list[str], characters: list[str], size: int, positions: int = 1024) -> Any:
    """Qwen2's byte-level BPE in which every word is one token and no merge crosses the border of a character.

    `characters` come by falling frequency and are added while they fit into `size` tokens. Raises UserError where the
    words and the bytes alone need more.
    """
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    letters = _byte_letters()
    merges: list[tuple[str, str]] = []
    vocab = {token: n for n, token in enumerate([*SPECIAL, *letters.values()])}
    room = size - len(words)
    if room < len(vocab):
        raise UserError(
            f"params.yaml: base.vocab_size: {len(words)} words and the bytes need {len(vocab) + len(words)}"
        )
    for character in characters:
        spelling = [letters[byte] for byte in character.encode()]
        pairs = [("".join(spelling[:n]), spelling[n]) for n in range(1, len(spelling))]
        pairs = [(prefix, letter) for prefix, letter in pairs if prefix + letter not in vocab]
        if len(vocab) + len(pairs) > room:
            break
        for prefix, letter in pairs:
            merges.append((prefix, letter))
            vocab[prefix + letter] = len(vocab)
    result = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=STOP,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START, STOP],
        model_max_length=positions,
        padding_side="left",
    )
    # AutoTokenizer loads a qwen2 folder as Qwen2Tokenizer, which rebuilds its pre-tokenizer: words survive that as
    # added tokens, a custom pre-tokenizer would not.
    result.add_tokens([AddedToken(word, normalized=False, special=False) for word in sorted(words)])
    result.chat_template = TEMPLATE
    return result


def set_previous_token_heads(model: Any, strength: float = 6.0) -> None:
    """Set heads of the first two layers to attend to the previous token, and one group to the second previous one.

    With rotary positions a constant query and key give a score that depends on the distance alone: k = (1, 0) and
    q = (cos d f, -sin d f) for every frequency f sum to cos((i - j - d) f), which is largest at j = i - d. Qwen2 has
    biases on q and k, so the constants fit into a plain checkpoint.
    """
    import torch

    config = model.config
    width = config.hidden_size // config.num_attention_heads
    share = config.num_attention_heads // config.num_key_value_heads  # query heads per key-value head
    f = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, width, 2) / width)
    with torch.no_grad():
        for layer, group, distance in ((0, 0, 1), (0, 1, 2), (1, 0, 1)):
            attention = model.model.layers[layer].self_attn
            keys = slice(group * width, (group + 1) * width)
            queries = slice(group * share * width, (group + 1) * share * width)
            # The content of a token counts little at first, so that the distance decides; training may raise it.
            attention.k_proj.weight[keys] *= 0.1
            attention.q_proj.weight[queries] *= 0.1
            attention.k_proj.bias[keys] = strength * torch.cat([torch.ones_like(f), torch.zeros_like(f)])
            query = strength * torch.cat([torch.cos(distance * f), -torch.sin(distance * f)])
            attention.q_proj.bias[queries] = query.repeat(share)


def build(base: Base, tokens: Any) -> Any:
    """An untrained model for the tokenizer `tokens`, its weights drawn from `base.seed`."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    stops = [tokens.convert_tokens_to_ids(token) for token in (END, STOP)]
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
    set_previous_token_heads(model)
    return model
