"""The offline style teacher rewrites an author's text in plain words, or summarizes it, without a network.

It reads only the request: the text between <text> and </text>, and the task, which a pattern of its bank finds. The
bank is one file, `plain.json`:
  drop     words that are removed everywhere
  replace  ornate word -> plain word
  openers  words that are removed at the start of a sentence, with the comma behind them
  summary  a pattern that only prompts for a summary match; every other prompt asks for plain words
Plain text has short sentences: a semicolon ends one, and one of more than 40 tokens is split at its commas.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

from anneal.errors import UserError
from anneal.llm.offline_server import Reply, Respond
from anneal.params import Section
from anneal.similarity import ngrams
from anneal.sources.chunks import sentences, tokens

# Raise it when the answer to a request may change: it is part of the teacher's identity.
VERSION = "1"

_LONG = 40  # tokens; a longer sentence is split
_POINTS = 12  # the most points of a summary
_BRIEF = 8  # tokens; the least length of a sentence that a summary considers, and of a point
_TEXT = re.compile(r"<text>\s*(.*?)\s*</text>", re.S)
_COMMA = re.compile(r"(?<=[，；,;])\s*")
_END = re.compile(r"[，；：、—…,;:\s]+$")


class Bank(Section):
    """The words of the teacher, as in `plain.json`; the module docstring describes the keys."""

    drop: list[str]
    replace: dict[str, str]
    openers: list[str]
    summary: str


def load(path: Path) -> Bank:
    """Read and validate a bank. Raises UserError with the file and the place of the fault."""
    try:
        return Bank.model_validate(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the offline teacher needs its words there") from None
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    except ValueError as err:
        first = err.errors()[0]  # type: ignore[attr-defined]  # pydantic's
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _split_long(sentence: str) -> str:
    """Split a long sentence: a comma becomes a full stop once the part before it has half the limit of tokens."""
    if tokens(sentence) <= _LONG:
        return sentence
    done, part = "", ""
    for clause in _COMMA.split(sentence):
        # Not inside a quotation, which would be left open.
        if tokens(part) >= _LONG // 2 and part.count("\u201c") == part.count("\u201d"):
            done += _END.sub("", part) + (". " if part.isascii() else "\u3002")
            part = ""
        part += (" " if part.endswith((",", ";")) else "") + clause
    return done + part


def flat(text: str, bank: Bank) -> str:
    """Rewrite a text in plain words, paragraph by paragraph, sentence by sentence; headings keep their place."""
    import rjieba

    changes = dict.fromkeys(bank.drop, "") | bank.replace
    # The longest alternative first, and one pass: a replacement is not replaced again.
    words = re.compile("|".join(map(re.escape, sorted(filter(None, changes), key=len, reverse=True))) or r"(?!)")
    openers = "|".join(map(re.escape, sorted(bank.openers, key=len, reverse=True))) or r"(?!)"
    start = re.compile(rf"^([^\w\s]*)(?:{openers})[，,]?\s*")

    def simplify(sentence: str) -> str:
        bare = start.sub(r"\1", sentence)
        ends = set(accumulate(map(len, rjieba.cut(bare, False))))  # False: words of the dictionary, none guessed

        def replacement(match: re.Match[str]) -> str:
            # A word of one character is also a piece of many longer ones, where it means something else.
            inside = len(match[0]) == 1 and not {match.start() or match.end(), match.end()} <= ends
            return match[0] if inside else changes[match[0]]

        bare = words.sub(replacement, bare)
        bare = re.sub("\u2014+", "，", bare).replace("；", "\u3002").replace(";", ".")
        bare = re.sub(r"(?<=[，、：。！？])[，、：。]+|(?<=^)[，、：,]\s*", "", bare)  # beside a removed word
        return "".join(map(_split_long, sentences(bare)))

    paragraphs = re.split(r"\n{2,}", text)
    plain = ["".join(map(simplify, sentences(paragraph))).strip() for paragraph in paragraphs]
    return "\n\n".join(part for part in plain if tokens(part))


def summary(text: str, bank: Bank) -> str:
    """Summarize a text by one plain clause per paragraph: the start of its central sentence, one point a line.

    Central is the sentence whose character bigrams are on average the most frequent in the text.
    """
    common = Counter(ngrams(text, 2))
    points: list[str] = []
    for paragraph in re.split(r"\n{2,}", text):
        candidates = [s.strip() for s in sentences(paragraph) if tokens(s) >= _BRIEF and not s.lstrip().startswith("#")]
        if not candidates:
            continue
        # The mean and not the sum: a long sentence is not central for being long.
        central = max(candidates, key=lambda s: sum(common[gram] for gram in ngrams(s, 2)) / len(s))
        point = ""
        for clause in re.split(r"(?<=[，；：。！？,;:!?])", flat(central, bank)):
            point += clause
            if tokens(point) >= _BRIEF:
                break
        points.append(re.sub(r"[\s，；：、。！？,;:.!?—…]+$", "", point))
    stride = max(1, -(-len(points) // _POINTS))  # rounded up, so that at most _POINTS remain
    return "\n".join(f"- {point}" for point in points[::stride]) or flat(text, bank)


def respond(folder: Path) -> Respond:
    """A teacher that answers from `plain.json` in `folder`, without randomness.

    The teacher raises ValueError (the server answers 400) for a prompt without a text between its tags.
    """
    path = folder / "plain.json"
    # A broken bank is refused before the first request; a recipe with another teacher needs none.
    bank = load(path) if path.is_file() else None

    def answer(body: dict[str, Any]) -> Reply:
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        if bank is None:
            raise ValueError(f"{path}: no such file; the offline teacher needs its words there")
        if (match := _TEXT.search(prompt)) is None:
            raise ValueError(f"the offline teacher finds no <text>...</text> in {prompt[-200:]!r}")
        # The pattern is searched in the instructions alone: the text may hold anything.
        instructions = prompt[: match.start()] + prompt[match.end() :]
        rewrite: Callable[[str, Bank], str] = summary if re.search(bank.summary, instructions) else flat
        return Reply(rewrite(match[1], bank))

    return answer
