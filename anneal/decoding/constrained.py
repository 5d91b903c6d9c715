"""Decoding under a JSON schema: tokens that cannot lead to a text of the schema are masked.

llguidance runs the grammar. The parts of JSON without a bound get one, since a weak model repeats them until its tokens
run out: white space between the parts is off (with it 0 of 10 texts of a random model were valid), and a number has at
most six decimals (without that bound 3 of 16 texts of an untuned model were valid, the others ended in 1.0000...; with
it 16). Strings and lists are bounded by maxLength and maxItems of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anneal.errors import UserError

if TYPE_CHECKING:
    import torch


_STEP = 1e-6  # between two numbers: six decimals
_MESSAGE = 300  # characters of an error of llguidance


def schema(path: str | Path) -> dict[str, Any]:
    """The JSON schema in a file. UserError for one that is missing or broken, or that no grammar can follow."""
    from llguidance import LLMatcher

    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write the schema, or set accept.constrained to false") from None
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object, got {type(value).__name__}")
    # A keyword that the grammar cannot follow is refused: if it were ignored, the checks would reject the texts.
    if error := LLMatcher.validate_grammar(_source(value)):
        raise UserError(f"{path}: {' '.join(error.split())}; take it out, or set accept.constrained to false")
    return value


def _bounded(part: Any) -> Any:
    """A copy of a schema in which every `number` has at most six decimals.

    It is for the grammar alone: a validator divides in floating point, where 0.07 is no multiple of 0.01.
    """
    if isinstance(part, list):
        return [_bounded(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    # The values of an enum or a const are copied, even where they look like a schema.
    copy = {key: value if key in ("enum", "const") else _bounded(value) for key, value in part.items()}
    types = part["type"] if isinstance(part.get("type"), list) else [part.get("type")]
    if "number" in types and "multipleOf" not in part:
        copy["multipleOf"] = _STEP
    return copy


def _source(schema: dict[str, Any]) -> str:
    """A schema as the grammar of llguidance, which is text."""
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(_bounded(schema), overrides={"whitespace_flexible": False})


class Grammar:
    """A JSON schema over the tokens of one tokenizer, compiled once (0.1 s for 2,000 tokens).

    UserError for a schema that llguidance cannot compile.
    """

    def __init__(self, tokenizer: Any, schema: dict[str, Any], stops: Sequence[int]) -> None:
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        vocabulary = from_tokenizer(tokenizer, eos_token=list(stops))
        self.start = LLMatcher(vocabulary, _source(schema), log_level=0)
        if self.start.is_error():
            raise UserError(f"the JSON schema: {' '.join(self.start.get_error().split())[:_MESSAGE]}; simplify it")
        self.size: int = vocabulary.vocab_size
        self.ends = frozenset([*stops, tokenizer.pad_token_id])

    def mask(self) -> Mask:
        """A fresh logits processor, for one batch."""
        return Mask(self)


class Mask:
    """Logits processor for one batch without beams: -inf for every token that the grammar does not allow next.

    A stop token is allowed exactly where the text may end. The scores of a row that has ended do not change.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.rows: list[Any] | None = None  # a matcher per row, None once the row has ended

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask scores (rows, vocabulary) of the token after ids (rows, tokens so far)."""
        import torch

        if self.rows is None:
            self.rows = [self.grammar.start.deep_copy() for _ in range(len(ids))]
        else:
            # A matcher follows the text of its row; beams change places between two steps.
            if len(ids) != len(self.rows):
                raise ValueError(f"the mask has seen {len(self.rows)} rows, got {len(ids)}; use one mask a batch")
            self.rows = [self._follow(row, token) for row, token in zip(self.rows, ids[:, -1].tolist(), strict=True)]
        allowed = np.ones((len(self.rows), scores.shape[1]), dtype=bool)
        for index, row in enumerate(self.rows):
            if row is not None:
                bits = np.unpackbits(np.frombuffer(row.compute_bitmask(), np.uint8), bitorder="little")
                # A model may have more scores than its tokenizer has tokens; the surplus stays masked.
                allowed[index] = False
                allowed[index, : self.grammar.size] = bits[: min(self.grammar.size, scores.shape[1])]
        # The kernel of llguidance for this step is compiled at run time and needs a C++ compiler.
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)

    def _follow(self, row: Any, token: int) -> Any:
        """Advance the matcher of a row by its last token; None once the row has ended."""
        if row is None or token in self.grammar.ends:
            return None
        # Another processor may have forbidden all allowed tokens; the token drawn then breaks the grammar.
        if not row.consume_token(token):
            raise ValueError(f"token {token} breaks the grammar: {' '.join(row.get_error().split())[:_MESSAGE]}")
        return row
