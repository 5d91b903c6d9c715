"""Loss masks for any chat template: exactly the tokens of the assistant's output and of the stop behind it are learnt.

No template is known by name. The tokenizer's own template renders the conversation twice, once as it is and once with a
sentinel in place of an output: the second rendering locates the output, and the first one confirms the place. Prompt
and output are then tokenised apart, the prompt with its generation prompt as at inference, so that no token straddles
the two.

The file goes from the template (control tokens, stop, the text around an output) to the tokens (ids and labels).
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
from typing import Any, Literal, NamedTuple

from anneal.errors import UserError
from anneal.records import Message, Metrics

Messages = list[Message]

IGNORE = -100  # the label that torch's cross entropy leaves out
NOTES = {
    "dropped": "a message of the prompt is not in the text that the template makes",
    "mismatch": "the template's training text does not begin with its generation prompt, which inference sees",
    "sanitised": "a text holds a control token as words; it is encoded as words",
    "stop_appended": "the template never closes the turn; the stop was added",
    "straddle": "in the joined text one token would hold the end of the prompt and the start of the output",
    "trimmed": "the template changes the white space of the output, which is learnt as rendered",
}

# Some templates write today's date into every prompt; on another day the same data would make another model. Any fixed
# day would do; this is the default of the Llama 3.1 templates.
_DAY = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
# Unicode's private use area: characters without a meaning, from which a mark and a sentinel are taken.
_PRIVATE_USE = range(0xE000, 0xF900)


class Unmaskable(UserError):
    """A row that cannot be masked exactly. Its text is the reason, worded alike for all rows of its kind."""


@dataclass(frozen=True)
class Grammar:
    """The control tokens of a tokenizer and its template."""

    special: re.Pattern[str]  # the special tokens of the tokenizer
    control: re.Pattern[str]  # the special tokens and words like <think> that the template writes
    ids: dict[str, int]  # of every added token, by its text
    reserved: frozenset[int]  # ids of the special tokens, without the unknown token
    stops: tuple[int, ...]  # ids that end an answer; the first is the one to learn

    def split_stop(self, after: str) -> tuple[str, int | None, int]:
        """Of the text behind an output: the text before its stop, the stop's id or None, and the stop's end."""
        match = self.special.search(after) or self.control.search(after)
        if match is None or self.ids[match[0]] not in self.stops:
            return "", None, 0
        return after[: match.start()], self.ids[match[0]], match.end()


@dataclass(frozen=True)
class Encoded:
    """A row as the trainer takes it."""

    ids: list[int]
    labels: list[int]  # as long as `ids`; IGNORE where nothing is learnt
    prompt: int  # tokens before the last output
    stops: int  # stops learnt
    notes: frozenset[str]  # keys of NOTES


@dataclass(frozen=True)
class Part:
    """A piece of a row; a learnt one ends in `stop`, which is None where the template writes none."""

    text: str
    learnt: bool
    stop: int | None = None


class Guarded(NamedTuple):
    """Messages in which no control token stands whole."""

    messages: Messages
    mark: str  # the character that breaks a control token
    sentinel: str  # another character that no message holds
    changed: bool  # whether any message held a control token


# The template: the text around an output, the control tokens, and the token that ends an answer.


def _alternation(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of the words, the longest first; one that matches nothing for no words."""
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def render(tokenizer: Any, messages: Messages, generate: bool) -> str:
    """The conversation as the template renders it; `generate` adds the generation prompt. Raises Unmaskable."""
    template = _TODAY.sub(lambda call: json.dumps(_DAY.strftime(call[2])), tokenizer.get_chat_template())
    options = {"add_generation_prompt": generate, "chat_template": template}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as err:  # a template is a program of its own and raises what it likes
        raise Unmaskable(f"the chat template refuses the conversation: {err}") from None


def split_at_outputs(tokenizer: Any, messages: Messages, turns: list[int], sentinel: str, generate: bool) -> list[str]:
    """The rendered text around the outputs of `turns` (indices of messages): before, between and behind them.

    One piece more than turns. Raises Unmaskable where the template does not render each turn once, in order.
    """
    names = {turn: f"{sentinel}{turn}{sentinel}" for turn in turns}
    staged: Messages = []
    for number, message in enumerate(messages):
        staged.append({**message, "content": names.get(number, message["content"])})
    pieces: list[str] = []
    remainder = render(tokenizer, staged, generate)
    for turn in turns:
        piece, separator, remainder = remainder.partition(names[turn])
        pieces.append(piece)
        if not separator or sentinel in piece:
            raise Unmaskable("the chat template leaves out or reorders an assistant turn")
    if sentinel in remainder:
        raise Unmaskable("the chat template renders an assistant turn twice")
    return [*pieces, remainder]


def _listed_eos(tokenizer: Any) -> list[int]:
    """End tokens in generation_config.json beside the tokenizer; chat models often name more there."""
    path = Path(str(tokenizer.name_or_path)) / "generation_config.json"
    if not path.is_file():
        return []
    eos = json.loads(path.read_text("utf-8")).get("eos_token_id")
    if eos is None:
        return []
    return [eos] if isinstance(eos, int) else list(eos)


@functools.lru_cache(maxsize=8)
def _read_grammar(tokenizer: Any, template: str, _size: int) -> Grammar:
    """The grammar of a tokenizer. The cache is keyed by template and size too: both may change on the same object."""
    added = tokenizer.added_tokens_decoder
    ids = {token.content: number for number, token in added.items()}
    special = {token.content for token in added.values() if token.special}
    # Words like <think> are added without being special; written by the template they are control tokens. An added
    # token that begins or ends with a letter (an entity of a small vocabulary) stays a word even there.
    written = {
        word for word in ids if word in template and not (word.isspace() or word[0].isalnum() or word[-1].isalnum())
    }
    reserved = frozenset(ids[word] for word in special) - {tokenizer.unk_token_id}
    stops = [token for token in [tokenizer.eos_token_id, *_listed_eos(tokenizer)] if token is not None]
    special_re = _alternation(special)
    control_re = _alternation(special | written)
    probe: Messages = [{"role": role, "content": f"text {n}"} for n, role in enumerate(("user", "assistant") * 2)]
    try:
        _, between, after = split_at_outputs(tokenizer, probe, [1, 3], chr(_PRIVATE_USE[0]), generate=False)
    except Unmaskable:
        between = after = ""
    # The stop follows a turn in the middle as well as at the end: what follows at the end alone may be a generation
    # prompt, which some templates write always.
    match = special_re.search(after) or control_re.search(after)
    if match and (ids[match[0]] in stops or between.startswith(after[: match.end()])):
        stops.insert(0, ids[match[0]])
    return Grammar(special_re, control_re, ids, reserved, tuple(dict.fromkeys(stops)))


def grammar_of(tokenizer: Any) -> Grammar:
    """The grammar of a tokenizer with its template; UserError without a template, or where no token could stop."""
    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; add chat_template.jinja to it")
    grammar = _read_grammar(tokenizer, tokenizer.get_chat_template(), len(tokenizer))
    if not grammar.stops:
        raise UserError(
            f"{tokenizer.name_or_path}: neither the chat template nor eos_token names a stop; set eos_token"
        )
    return grammar


def stop_ids(tokenizer: Any) -> list[int]:
    """Ids that end an answer: the template's own first, which is the one learnt, then eos and generation_config's."""
    return list(grammar_of(tokenizer).stops)


def guard(messages: Messages, grammar: Grammar) -> Guarded:
    """Break every control token that stands in a message by a mark behind its first character.

    A literal control token would open a turn of its own. In the assistant's words only special tokens are broken: its
    <think> is the token that the model itself writes.
    """
    if not all(isinstance(message.get("content"), str) for message in messages):
        raise Unmaskable("a message without text")
    text = "".join(message["content"] for message in messages)
    unused = (char for char in map(chr, _PRIVATE_USE) if char not in text)
    mark, sentinel = itertools.islice(unused, 2)
    guarded: Messages = []
    n_broken = 0
    for message in messages:
        pattern = grammar.special if message["role"] == "assistant" else grammar.control
        content, count = pattern.subn(lambda m: m[0][0] + mark + m[0][1:], message["content"])
        guarded.append({**message, "content": content})
        n_broken += count
    return Guarded(guarded, mark, sentinel, n_broken > 0)


def answer_frame(tokenizer: Any, before: Messages, sentinel: str) -> tuple[str, str, str]:
    """The text before an answer at inference, the text before it in training, and the text behind it."""
    conversation: Messages = [*before, {"role": "assistant", "content": ""}]
    head, after = split_at_outputs(tokenizer, conversation, [len(before)], sentinel, generate=False)
    prefix = render(tokenizer, before, generate=True)
    has_header = head.startswith(prefix) and head[len(prefix) :].strip()
    if has_header and prefix == render(tokenizer, before, generate=False):
        return head, head, after  # the template has no generation prompt: the header is the user's to write
    return prefix, head, after


# The tokens: ids and labels of a row.


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
        joined = _ids(tokenizer, anchor + text)
        if joined[: len(head)] == head:
            return joined[len(head) :]
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
    turns = [number for number, message in enumerate(before) if message["role"] == "assistant"]
    first, *afters = split_at_outputs(tokenizer, before, turns, sentinel, generate=True)
    parts: list[Part] = []
    done = 0  # end of the last learnt part in `prefix`
    start = len(first)  # of the turn's output in `prefix`
    for turn, after in zip(turns, afters, strict=True):
        content = before[turn]["content"]
        # Templates strip white space or line breaks, at either end or both.
        stripped = [strip(content, chars) for chars in (None, "\n") for strip in (str.rstrip, str.lstrip, str.strip)]
        candidates = (content, *stripped)
        output = next((text for text in candidates if prefix.startswith(text + after, start)), None)
        if output is None:
            raise Unmaskable("the chat template changes an earlier assistant turn; learn the last turn only")
        closing, stop, stop_end = grammar.split_stop(after)
        if closing.strip():  # words of the next message: this turn has no stop of its own
            closing, stop, stop_end = "", None, 0
        parts.append(Part(prefix[done:start], False))
        parts.append(Part(output + closing, True, stop))
        done = start + len(output) + stop_end
        start += len(output + after)
    return [*parts, Part(prefix[done:], False)]


def _output(text: str, starts: tuple[str, str], after: str, content: str) -> str:
    """The last output as the template renders it; it must equal the message's `content` but for white space."""
    for start in starts:
        output = text[len(start) : len(text) - len(after)]
        if text == start + output + after and "".join(output.split()) == "".join(content.split()):
            return output
    raise Unmaskable("the chat template drops or rewrites a part of the output")


def prompt_ids(tokenizer: Any, prompt: Messages) -> list[int]:
    """Tokens that inference starts from: the prompt with its generation prompt, as `encode` masks it."""
    grammar = grammar_of(tokenizer)
    guarded = guard(prompt, grammar)
    prefix, _, _ = answer_frame(tokenizer, guarded.messages, guarded.sentinel)
    return _tokens(tokenizer, grammar, prefix, guarded.mark, inside=False)


def _join(tokenizer: Any, grammar: Grammar, parts: list[Part], mark: str) -> tuple[list[int], list[int], int]:
    """Token ids and labels of the parts in sequence, and the index at which the last part starts."""
    ids: list[int] = []
    labels: list[int] = []
    start = 0
    for part in parts:
        start = len(ids)
        ids += _tokens(tokenizer, grammar, part.text, mark, inside=start > 0)
        # The stop goes in by its id: in some tokenizers the text "</s>" after a word does not give that id.
        if part.learnt:
            ids.append(grammar.stops[0] if part.stop is None else part.stop)
            labels += ids[start:]
        else:
            labels += [IGNORE] * (len(ids) - start)
    return ids, labels, start


def encode(tokenizer: Any, prompt: Messages, completion: Messages, turns: Literal["last", "all"] = "last") -> Encoded:
    """Encode one row: the loss lies on the last output, or on every assistant turn, and on the stop behind each.

    Text that a template writes between its generation prompt and the output (a space, an empty think block) is learnt,
    because the model has to write it; text of the generation prompt is prompt. Raises Unmaskable.
    """
    if not completion or completion[-1]["role"] != "assistant":
        raise Unmaskable("the completion does not end with an assistant turn")
    grammar = grammar_of(tokenizer)
    (*before, last), mark, sentinel, sanitised = guard([*prompt, *completion], grammar)
    prefix, head, after = answer_frame(tokenizer, before, sentinel)
    text = render(tokenizer, [*before, last], generate=False)
    output = _output(text, (head, prefix), after, last["content"])
    closing, stop, _ = grammar.split_stop(after)
    # A generation prompt that the training text lacks (an opened think block) is still what the answer follows.
    follows = text.startswith(prefix)
    learnt = text[len(prefix) : len(text) - len(after)] if follows else output
    learnt += closing
    parts = _history(tokenizer, grammar, before, sentinel, prefix) if turns == "all" else [Part(prefix, False)]
    parts.append(Part(learnt, True, stop))
    ids, labels, start = _join(tokenizer, grammar, parts, mark)
    notes = {
        "dropped": any(m["role"] != "assistant" and m["content"].strip() not in prefix for m in before),
        "mismatch": not follows,
        "sanitised": sanitised,
        "stop_appended": any(part.learnt and part.stop is None for part in parts),
        "straddle": _tokens(tokenizer, grammar, prefix + learnt, mark, inside=False)[:start] != ids[:start],
        "trimmed": output != last["content"],
    }
    stops = sum(part.learnt for part in parts)
    return Encoded(ids, labels, start, stops, frozenset(name for name in NOTES if notes[name]))


def report(rows: Iterable[Encoded | Unmaskable], stops: Iterable[int]) -> Metrics:
    """Counts over a data set: rows, rows masked, refused by reason, rows whose every turn ends in a learnt stop, notes.

    `stops` are the ids that end an answer.
    """
    rows = list(rows)
    stop = frozenset(stops)
    masked = [row for row in rows if isinstance(row, Encoded)]
    notes = Counter(note for row in masked for note in row.notes)
    return {
        "rows": len(rows),
        "masked": len(masked),
        "stop_learnt": sum(sum(label in stop for label in row.labels) >= row.stops for row in masked),
        "refused": dict(sorted(Counter(str(row) for row in rows if isinstance(row, Unmaskable)).items())),
        "notes": {name: notes[name] for name in NOTES},
    }
