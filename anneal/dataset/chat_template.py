"""Exact loss spans on any chat template: which tokens are the assistant's words and its stop, and nothing else.

The conversation goes through the tokenizer's own template as it is, and with a sentinel in place of an output: the
second rendering tells where the output lies, the first one proves it. Prompt and output are then tokenised apart, the
prompt with its generation prompt, which is what inference sees, so that no token ever straddles the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from anneal.dataset.template import Grammar, Messages, Unmaskable, around, grammar_of, guard, render, scaffold
from anneal.dataset.template import stop_ids as stop_ids

IGNORE = -100  # what torch's cross entropy leaves out
NOTES = {
    "dropped": "a message of the prompt is not in the text that the template makes",
    "mismatch": "the template's training text does not begin with its generation prompt, which inference sees",
    "sanitised": "a text holds a control token as words; it is encoded as words",
    "stop_appended": "the template never closes the turn; the stop was added",
    "straddle": "in the joined text one token would hold the end of the prompt and the start of the output",
    "trimmed": "the template changes the white space of the output, which is learnt as rendered",
}


@dataclass(frozen=True)
class Encoded:
    """A row as the trainer takes it: `labels` are -100 where nothing is learnt; `stops` counts the stops learnt."""

    ids: list[int]
    labels: list[int]
    prompt: int  # tokens before the last output
    stops: int
    notes: frozenset[str]


@dataclass(frozen=True)
class Part:
    """A piece of a row; a learnt one ends in `stop`, which is None where the template writes none."""

    text: str
    learnt: bool
    stop: int | None = None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _inner(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text in the middle of a longer one; SentencePiece would put a space before its first word."""

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    plain = _ids(tokenizer, text)
    for anchor in ("\n", "<", "a"):
        head = _ids(tokenizer, anchor)
        if decode(head + plain) == decode(head) + text:
            return plain
        both = _ids(tokenizer, anchor + text)
        if both[: len(head)] == head:
            return both[len(head) :]
    raise Unmaskable("the tokenizer cannot encode the output apart from its prompt")


def _tokens(tokenizer: Any, grammar: Grammar, text: str, mark: str, inside: bool) -> list[int]:
    """Tokens of a marked text, `inside` another or at its start; only the template writes control tokens in it."""
    first, *rest = text.split(mark)
    ids = _inner(tokenizer, first) if inside else _ids(tokenizer, first)
    ids += [token for piece in rest for token in _inner(tokenizer, piece)]
    if sum(token in grammar.reserved for token in ids) > len(grammar.special.findall(text)):
        raise Unmaskable("a text cannot be kept from becoming a control token")
    return ids


def _history(tokenizer: Any, grammar: Grammar, before: Messages, sentinel: str, prefix: str) -> list[Part]:
    """The prompt in parts, with each earlier assistant turn learnt as inference will render it."""
    turns = [i for i, message in enumerate(before) if message["role"] == "assistant"]
    first, *afters = scaffold(tokenizer, before, turns, sentinel, generate=True)
    parts, done, at = [], 0, len(first)
    for turn, after in zip(turns, afters, strict=True):
        output = before[turn]["content"]
        shapes = [cut(output, chars) for chars in (None, "\n") for cut in (str.rstrip, str.lstrip, str.strip)]
        shape = next((s for s in (output, *shapes) if prefix.startswith(s + after, at)), None)
        if shape is None:
            raise Unmaskable("the chat template changes an earlier assistant turn; learn the last turn only")
        closing, stop, end = grammar.close(after)
        if closing.strip():  # words of the next message: this turn has no stop of its own
            closing, stop, end = "", None, 0
        parts += [Part(prefix[done:at], False), Part(shape + closing, True, stop)]
        done, at = at + len(shape) + end, at + len(shape + after)
    return [*parts, Part(prefix[done:], False)]


def _output(text: str, starts: tuple[str, str], after: str, wanted: str) -> str:
    """The last output as the template renders it; white space apart, it must be the one that was given."""
    for start in starts:
        output = text[len(start) : len(text) - len(after)]
        if text == start + output + after and "".join(output.split()) == "".join(wanted.split()):
            return output
    raise Unmaskable("the chat template drops or rewrites a part of the output")


def prompt_ids(tokenizer: Any, prompt: Messages) -> list[int]:
    """Tokens that inference starts from: the prompt with its generation prompt, as `encode` masks it."""
    grammar = grammar_of(tokenizer)
    before, mark, sentinel, _ = guard(prompt, grammar)
    return _tokens(tokenizer, grammar, around(tokenizer, before, sentinel)[0], mark, inside=False)


def _join(tokenizer: Any, grammar: Grammar, parts: list[Part], mark: str) -> tuple[list[int], list[int], int]:
    """Token ids and labels of the parts one after the other, and where the last one starts."""
    ids: list[int] = []
    labels: list[int] = []
    start = 0
    for part in parts:
        start = len(ids)
        ids += _tokens(tokenizer, grammar, part.text, mark, inside=start > 0)
        # The stop goes in by its id: in some tokenizers the text "</s>" after a word does not give that id.
        ids += [grammar.stops[0] if part.stop is None else part.stop] if part.learnt else []
        labels += ids[start:] if part.learnt else [IGNORE] * (len(ids) - start)
    return ids, labels, start


def encode(tokenizer: Any, prompt: Messages, completion: Messages, turns: Literal["last", "all"] = "last") -> Encoded:
    """One row: the loss lies on the last output, or on every assistant turn, and on the stop after it.

    What a template writes between its generation prompt and the output (a space, an empty think block) is learnt,
    because the model has to write it; what stands in the generation prompt is prompt. Raises Unmaskable.
    """
    if not completion or completion[-1]["role"] != "assistant":
        raise Unmaskable("the completion does not end with an assistant turn")
    grammar = grammar_of(tokenizer)
    (*before, last), mark, sentinel, sanitised = guard([*prompt, *completion], grammar)
    prefix, head, after = around(tokenizer, before, sentinel)
    text = render(tokenizer, [*before, last], generate=False)
    output = _output(text, (head, prefix), after, last["content"])
    closing, stop, _ = grammar.close(after)
    # A generation prompt that the training text lacks (an opened think block) is still what the answer follows.
    follows = text.startswith(prefix)
    tail = (text[len(prefix) : len(text) - len(after)] if follows else output) + closing
    parts = _history(tokenizer, grammar, before, sentinel, prefix) if turns == "all" else [Part(prefix, False)]
    parts.append(Part(tail, True, stop))
    ids, labels, start = _join(tokenizer, grammar, parts, mark)
    notes = {
        "dropped": any(m["role"] != "assistant" and m["content"].strip() not in prefix for m in before),
        "mismatch": not follows,
        "sanitised": sanitised,
        "stop_appended": any(part.learnt and part.stop is None for part in parts),
        "straddle": _tokens(tokenizer, grammar, prefix + tail, mark, inside=False)[:start] != ids[:start],
        "trimmed": output != last["content"],
    }
    stops = sum(part.learnt for part in parts)
    return Encoded(ids, labels, start, stops, frozenset(name for name in NOTES if notes[name]))


def report(rows: Iterable[Encoded | Unmaskable], stops: Iterable[int]) -> dict[str, Any]:
    """Facts of a data set: rows, rows masked, refused by reason, rows whose every turn ends in a learnt stop, notes."""
    rows, stop = list(rows), frozenset(stops)
    masked = [row for row in rows if isinstance(row, Encoded)]
    notes = Counter(note for row in masked for note in row.notes)
    return {
        "rows": len(rows),
        "masked": len(masked),
        "stop_learnt": sum(sum(label in stop for label in row.labels) >= row.stops for row in masked),
        "refused": dict(sorted(Counter(str(row) for row in rows if isinstance(row, Unmaskable)).items())),
        "notes": {name: notes[name] for name in NOTES},
    }
