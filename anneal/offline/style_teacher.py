"""The offline teacher of a writing style: it makes an author's text plain, or sums it up, and never leaves the machine.

It reads only the request: the text between <text> and </text>, and what is asked of it by a pattern of its bank, one
file `plain.json`:
  drop     words that are left out wherever they stand
  replace  ornate word -> plain word
  openers  words that are left out at the start of a sentence, with the comma behind them
  summary  a pattern that only prompts for a summary hold; every other prompt asks for plain words
Plain words are also short sentences: semicolons end one, and one of more than 40 tokens is parted at its commas.
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

# Raise it when the same request may be answered otherwise; it is part of the teacher's identity.
VERSION = "1"

_LONG = 40  # tokens of a sentence that is parted
_POINTS = 12  # of a summary, at most
_BRIEF = 8  # tokens that the first clause of a summary's sentence has at least
_TEXT = re.compile(r"<text>\s*(.*?)\s*</text>", re.S)
_COMMA = re.compile(r"(?<=[，；,;])\s*")
_END = re.compile(r"[，；：、—…,;:\s]+$")


class Bank(Section):
    drop: list[str]
    replace: dict[str, str]
    openers: list[str]
    summary: str


def load(path: Path) -> Bank:
    try:
        return Bank.model_validate(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the offline teacher needs its words there") from None
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    except ValueError as err:
        first = err.errors()[0]  # type: ignore[attr-defined]  # pydantic's
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _parted(sentence: str) -> str:
    """A long sentence as several: commas become full stops where that leaves parts of a fair size."""
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
    """A text in plain words: paragraph by paragraph, sentence by sentence; headings keep their place."""
    import rjieba

    changes = dict.fromkeys(bank.drop, "") | bank.replace
    # The longest first, in one pass: what was put in is not looked at again.
    words = re.compile("|".join(map(re.escape, sorted(filter(None, changes), key=len, reverse=True))) or r"(?!)")
    openers = "|".join(map(re.escape, sorted(bank.openers, key=len, reverse=True))) or r"(?!)"
    start = re.compile(rf"^([^\w\s]*)(?:{openers})[，,]?\s*")

    def one(sentence: str) -> str:
        bare = start.sub(r"\1", sentence)
        ends = set(accumulate(map(len, rjieba.cut(bare, False))))  # False: words of the dictionary, none guessed

        def other(match: re.Match[str]) -> str:
            # A word of one character is also a piece of many longer ones, where it means something else.
            inside = len(match[0]) == 1 and not {match.start() or match.end(), match.end()} <= ends
            return match[0] if inside else changes[match[0]]

        bare = words.sub(other, bare)
        bare = re.sub("\u2014+", "，", bare).replace("；", "\u3002").replace(";", ".")
        bare = re.sub(r"(?<=[，、：。！？])[，、：。]+|(?<=^)[，、：,]\s*", "", bare)  # what a word left behind
        return "".join(map(_parted, sentences(bare)))

    paragraphs = re.split(r"\n{2,}", text)
    plain = ["".join(map(one, sentences(paragraph))).strip() for paragraph in paragraphs]
    return "\n\n".join(part for part in plain if tokens(part))


def summary(text: str, bank: Bank) -> str:
    """One plain clause of each paragraph: the start of the sentence that shares most with the whole text."""
    common = Counter(ngrams(text, 2))
    points: list[str] = []
    for paragraph in re.split(r"\n{2,}", text):
        said = [s.strip() for s in sentences(paragraph) if tokens(s) >= _BRIEF and not s.lstrip().startswith("#")]
        if not said:
            continue
        # The mean and not the sum: a long sentence is not central for being long.
        central = max(said, key=lambda s: sum(common[gram] for gram in ngrams(s, 2)) / len(s))
        point = ""
        for clause in re.split(r"(?<=[，；：。！？,;:!?])", flat(central, bank)):
            point += clause
            if tokens(point) >= _BRIEF:
                break
        points.append(re.sub(r"[\s，；：、。！？,;:.!?—…]+$", "", point))
    kept = points[:: max(1, -(-len(points) // _POINTS))]
    return "\n".join(f"- {point}" for point in kept) or flat(text, bank)


def respond(folder: Path) -> Respond:
    """A teacher that answers from `plain.json` in `folder`: the same request, the same words.

    It raises ValueError (the server answers 400) for a prompt without a text between its tags.
    """
    path, loaded = folder / "plain.json", list[Bank]()
    # Asked for at once where it is there; a recipe with another teacher needs none.
    if path.is_file():
        loaded.append(load(path))

    def answer(body: dict[str, Any]) -> Reply:
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        if not loaded:
            raise ValueError(f"{path}: no such file; the offline teacher needs its words there")
        if (found := _TEXT.search(prompt)) is None:
            raise ValueError(f"the offline teacher finds no <text>...</text> in {prompt[-200:]!r}")
        # The pattern is looked for in what the prompt says, not in the text, which may say anything.
        asked = prompt[: found.start()] + prompt[found.end() :]
        do: Callable[[str, Bank], str] = summary if re.search(loaded[0].summary, asked) else flat
        return Reply(do(found[1], loaded[0]))

    return answer
