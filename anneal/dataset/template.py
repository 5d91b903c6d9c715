"""What a chat template does: the text around a turn, the control tokens, and the token that ends an answer.

Nothing here knows a template by name. A sentinel in place of an output shows where the template puts it.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anneal.params import Refusal

Messages = list[dict[str, str]]
# Some templates write today's date into every prompt; on another day the same data would make another model.
_DAY = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class Unmaskable(Refusal):
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
        raise Refusal(f"{tokenizer.name_or_path}: the tokenizer has no chat template; add chat_template.jinja to it")
    found = _learn(tokenizer, tokenizer.get_chat_template(), len(tokenizer))
    if not found.stops:
        raise Refusal(f"{tokenizer.name_or_path}: neither the chat template nor eos_token names a stop; set eos_token")
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
