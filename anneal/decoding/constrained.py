"""Decoding under a JSON schema: tokens that cannot lead to a text of the schema get no chance.

The grammar is run by llguidance. What JSON lets go on for ever is bounded, since a weak model goes on with it until
its tokens run out: blanks between the parts are off (with them 0 of 10 texts of a random model were valid), and a
number has six decimals at most (without that bound 3 of 16 texts of an untuned model were, the others ended in
1.0000...; with it 16). For strings and lists a schema says maxLength and maxItems.
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


def schema(path: str | Path) -> dict[str, Any]:
    """The JSON schema in a file. Refuses one that is missing or broken, or that no grammar can follow."""
    from llguidance import LLMatcher

    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write the schema, or set accept.constrained to false") from None
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object, got {type(found).__name__}")
    # A keyword that the grammar cannot follow is refused: ignored, it would promise texts that the checks reject.
    if wrong := LLMatcher.validate_grammar(_source(found)):
        raise UserError(f"{path}: {' '.join(wrong.split())}; take it out, or set accept.constrained to false")
    return found


def _bounded(part: Any) -> Any:
    """A schema whose every `number` has six decimals at most. This is for the grammar alone: a validator divides in
    floating point, where 0.07 is no multiple of 0.01."""
    if isinstance(part, list):
        return [_bounded(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    kinds = part.get("type")
    endless = "number" in (kinds if isinstance(kinds, list) else [kinds]) and "multipleOf" not in part
    # What an enum or a const holds are values, even where they look like a schema.
    kept = {key: value if key in ("enum", "const") else _bounded(value) for key, value in part.items()}
    return kept | ({"multipleOf": 1e-6} if endless else {})


def _source(wanted: dict[str, Any]) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(_bounded(wanted), overrides={"whitespace_flexible": False})


class Grammar:
    """A JSON schema over the tokens of one tokenizer, compiled once (0.1 s for 2,000 tokens)."""

    def __init__(self, tokenizer: Any, wanted: dict[str, Any], stops: Sequence[int]) -> None:
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        known = from_tokenizer(tokenizer, eos_token=list(stops))
        self.start = LLMatcher(known, _source(wanted), log_level=0)
        if self.start.is_error():
            raise UserError(f"the JSON schema: {' '.join(self.start.get_error().split())[:300]}; simplify it")
        self.size: int = known.vocab_size
        self.ends = frozenset([*stops, tokenizer.pad_token_id])

    def mask(self) -> Mask:
        """A fresh logits processor, for one batch."""
        return Mask(self)


class Mask:
    """Logits processor of one batch without beams: -inf for every token that the grammar does not allow next.

    A stop token is allowed exactly where the text may end. A row that has ended is left alone.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.rows: list[Any] | None = None  # a matcher per row, None once the row has ended

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        if self.rows is None:
            self.rows = [self.grammar.start.deep_copy() for _ in range(len(ids))]
        else:
            # Beams change places between two steps, a matcher would follow another row's text.
            if len(ids) != len(self.rows):
                raise ValueError(f"the mask has seen {len(self.rows)} rows, got {len(ids)}; use one mask a batch")
            self.rows = [self._follow(row, token) for row, token in zip(self.rows, ids[:, -1].tolist(), strict=True)]
        allowed = np.ones((len(self.rows), scores.shape[1]), dtype=bool)
        for place, row in enumerate(self.rows):
            if row is not None:
                bits = np.unpackbits(np.frombuffer(row.compute_bitmask(), np.uint8), bitorder="little")
                # A model may have more scores than its tokenizer has tokens: nothing stands behind those.
                allowed[place] = False
                allowed[place, : self.grammar.size] = bits[: min(self.grammar.size, scores.shape[1])]
        # llguidance has a kernel of its own for this, but it is compiled at run time and needs a C++ compiler.
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)

    def _follow(self, row: Any, token: int) -> Any:
        if row is None or token in self.grammar.ends:
            return None
        # It fails where something else has forbidden all that was allowed here: the token is then anyone's.
        if not row.consume_token(token):
            raise ValueError(f"token {token} breaks the grammar: {' '.join(row.get_error().split())[:300]}")
        return row
