"""Exact loss spans on any chat template: which tokens are the assistant's words and its stop, and nothing else.

The conversation goes through the tokenizer's own template as it is, and with a sentinel in place of an output: the
second rendering tells where the output lies, the first one proves it. Prompt and output are then tokenised apart, the
prompt with its generation prompt, which is what inference sees, so that no token ever straddles the two.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anneal.errors import UserError

# What a chat template does: the text around a turn, the control tokens, and the token that ends an answer.
#
# Nothing here knows a template by name. A sentinel in place of an output shows where the template puts it.

Messages = list[dict[str, str]]
# Some templates write today's date into every prompt; on another day the same data would make another model.
_DAY = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class Unmaskable(UserError):
    """A row that cannot be masked exactly. The text is the reason, in the same words for every row of its kind."""


@dataclass(frozen=True)
class Grammar:
    """The control tokens of a tokenizer and its template; `stops` begins with the one to learn."""

    special: re.Pattern[str]
    control: re.Pattern[str]  # the special ones and words like <think> that the template writes
    ids: dict[str, int]
    reserved: frozenset[int]
    stops: tuple[int, ...]

    def close(self, after: str) -> tuple[str, int | None, int]:
        """What follows an output: the text up to its stop, the stop's id or None, and where the stop ends."""
        match = self.special.search(after) or self.control.search(after)
        if match is None or self.ids[match[0]] not in self.stops:
            return "", None, 0
        return after[: match.start()], self.ids[match[0]], match.end()


def _any(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(words, key=lambda w: (-len(w), w)))) or "(?!)")


def render(tokenizer: Any, messages: Messages, generate: bool) -> str:
    """The text that the template makes of a conversation."""
    template = _TODAY.sub(lambda call: json.dumps(_DAY.strftime(call[2])), tokenizer.get_chat_template())
    options = {"add_generation_prompt": generate, "chat_template": template}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as err:  # a template is a program of its own and raises what it likes
        raise Unmaskable(f"the chat template refuses the conversation: {err}") from None


def scaffold(tokenizer: Any, messages: Messages, turns: list[int], sentinel: str, generate: bool) -> list[str]:
    """The text around the outputs of `turns`: before the first, between them, after the last."""
    names = {turn: f"{sentinel}{turn}{sentinel}" for turn in turns}
    staged = [{**message, "content": names.get(i, message["content"])} for i, message in enumerate(messages)]
    pieces, rest = [], render(tokenizer, staged, generate)
    for turn in turns:
        piece, found, rest = rest.partition(names[turn])
        pieces.append(piece)
        if not found or sentinel in piece:
            raise Unmaskable("the chat template leaves out or reorders an assistant turn")
    if sentinel in rest:
        raise Unmaskable("the chat template renders an assistant turn twice")
    return [*pieces, rest]


def _listed_eos(tokenizer: Any) -> list[int]:
    """End tokens in generation_config.json beside the tokenizer; chat models often name more there."""
    path = Path(str(tokenizer.name_or_path)) / "generation_config.json"
    found = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    return [] if found is None else [found] if isinstance(found, int) else list(found)


@functools.lru_cache(maxsize=8)
def _learn(tokenizer: Any, template: str, _size: int) -> Grammar:
    added = tokenizer.added_tokens_decoder
    ids = {token.content: number for number, token in added.items()}
    special = {token.content for token in added.values() if token.special}
    # Words like <think> are added without being special; written by the template they are control tokens. An added
    # token that begins or ends with a letter (an entity of a small vocabulary) stays a word even there.
    outer = {w for w in ids if w in template and not (w.isspace() or w[0].isalnum() or w[-1].isalnum())}
    reserved = frozenset(ids[word] for word in special) - {tokenizer.unk_token_id}
    stops = [i for i in [tokenizer.eos_token_id, *_listed_eos(tokenizer)] if i is not None]
    special_re, control_re = _any(special), _any(special | outer)
    talk = [{"role": role, "content": f"text {n}"} for n, role in enumerate(("user", "assistant") * 2)]
    try:
        _, between, after = scaffold(tokenizer, talk, [1, 3], "\ue000", generate=False)
    except Unmaskable:
        between = after = ""
    # The stop follows a turn in the middle as well as at the end: what follows at the end alone may be a generation
    # prompt, which some templates write always.
    match = special_re.search(after) or control_re.search(after)
    if match and (ids[match[0]] in stops or between.startswith(after[: match.end()])):
        stops.insert(0, ids[match[0]])
    return Grammar(special_re, control_re, ids, reserved, tuple(dict.fromkeys(stops)))


def grammar_of(tokenizer: Any) -> Grammar:
    """The grammar of a tokenizer with its template; refuses where there is no template or nothing that could stop."""
    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; add chat_template.jinja to it")
    found = _learn(tokenizer, tokenizer.get_chat_template(), len(tokenizer))
    if not found.stops:
        raise UserError(
            f"{tokenizer.name_or_path}: neither the chat template nor eos_token names a stop; set eos_token"
        )
    return found


def stop_ids(tokenizer: Any) -> list[int]:
    """Ids that end an answer: the template's own first, which is the one learnt, then eos and generation_config's."""
    return list(grammar_of(tokenizer).stops)


def guard(messages: Messages, grammar: Grammar) -> tuple[Messages, str, str, bool]:
    """Messages without a whole control token in them, the mark that parts those, a sentinel, and whether any was found.

    A literal control token would open a turn of its own. In the assistant's words only special ones are parted: its
    <think> is the token that the model itself writes.
    """
    if not all(isinstance(message.get("content"), str) for message in messages):
        raise Unmaskable("a message without text")
    text = "".join(message["content"] for message in messages)
    mark, sentinel = itertools.islice((char for char in map(chr, range(0xE000, 0xF900)) if char not in text), 2)
    guarded, found = [], 0
    for message in messages:
        pattern = grammar.special if message["role"] == "assistant" else grammar.control
        content, count = pattern.subn(lambda m: m[0][0] + mark + m[0][1:], message["content"])
        guarded.append({**message, "content": content})
        found += count
    return guarded, mark, sentinel, found > 0


def around(tokenizer: Any, before: Messages, sentinel: str) -> tuple[str, str, str]:
    """Text before an answer at inference and in training, and the text that follows the answer."""
    turn = [*before, {"role": "assistant", "content": ""}]
    head, after = scaffold(tokenizer, turn, [len(before)], sentinel, generate=False)
    text = render(tokenizer, before, generate=True)
    if head.startswith(text) and head[len(text) :].strip() and text == render(tokenizer, before, generate=False):
        return head, head, after  # the template has no generation prompt: the header is the user's to write
    return text, head, after


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
