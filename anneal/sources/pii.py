"""Personal data in texts: detected by format and checksum, counted, masked or dropped. No match is ever reported.

Masking replaces a match by a surrogate of the same format, equal matches by equal surrogates. A placeholder
such as <PHONE> is a word that a model learns and says; a surrogate is read as any number is. Each one lies where
nobody's can: a wrong checksum, a prefix that no phone has, a reserved domain. So a masked text holds no hit. It is
drawn by the order of first sight and never from the thing itself: eleven digits are soon guessed back from their hash.
"""

from __future__ import annotations

import itertools
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast

Mode = Literal["off", "report", "mask", "drop"]
R = TypeVar("R", bound=Mapping[str, Any])  # a Record, or a row on its way to one

_MARK = "example"  # reserved for documentation (RFC 2606); what holds it is nobody's


class Kind(NamedTuple):
    """One form of one kind: what stands in the pattern's group `it`, when it is `right`, and a surrogate for it."""

    name: str
    pattern: re.Pattern[str]
    right: Callable[[str], bool]
    other: Callable[[str, random.Random], str]


def _digits(text: str) -> list[int]:
    return [int(sign) for sign in text if sign.isdigit()]


def _identity(text: str) -> bool:
    """GB 11643-1999: the weights are powers of 2 modulo 11, and a check value of 10 is written X."""
    body = _digits(text[:17])
    total = sum(digit * pow(2, 17 - place, 11) for place, digit in enumerate(body))
    return len(body) == 17 and len(text) == 18 and "10X98765432"[total % 11] == text[-1].upper()


def _luhn(text: str) -> bool:
    """ISO/IEC 7812; one number in ten passes by chance."""
    doubled = [digit * 2 if place % 2 else digit for place, digit in enumerate(reversed(_digits(text)))]
    return sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10 == 0


def _mixed(text: str) -> bool:
    """A key, or a name nobody would take for a word: letters with digits or _ among them."""
    return bool(re.search(r"[0-9_]", text) and re.search(r"[A-Za-z]", text)) and _MARK not in text.lower()


def _like(text: str, rng: random.Random) -> str:
    """A random text of the same format: digits, lower-case and upper-case letters are redrawn."""
    pools = ((string.digits, str.isdigit), (string.ascii_lowercase, str.islower), (string.ascii_uppercase, str.isupper))
    return "".join(next((rng.choice(pool) for pool, fits in pools if fits(sign)), sign) for sign in text)


def _wrong(text: str, rng: random.Random) -> str:
    """A number of the same form whose checksum holds for no kind of card."""
    head = _like(text[:-1], rng)
    return next(new for digit in string.digits if not _luhn(new := head + digit) and not _identity(new))


def _marked(text: str, rng: random.Random) -> str:
    """For names and keys: the mark, behind the prefix that says whose key it is."""
    kept = len(re.match(r"(?:sk-|pk-|AKIA|gh[pousr]_|eyJ)?", text)[0])  # type: ignore[index]  # it may match nothing
    # Six signs behind the mark at least, lest many short names run out of different ones.
    return text[:kept] + _MARK + _like(text[kept + len(_MARK) :].ljust(6, "x"), rng)


def _number(form: str) -> re.Pattern[str]:
    """A number that is no part of a longer one, of a word, or of a decimal."""
    return re.compile(rf"(?<![0-9A-Za-z])(?<![0-9][.,-])(?:\+?86[ -]?)?(?P<it>{form})(?![0-9A-Za-z]|[.,-][0-9])", re.A)


_DATE = r"(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
# Chinese words in escapes: weixin and V xin (the messenger), hao (number), shi and wei (is); miyao, mima, kouling.
_CHAT, _CHAT_LATIN = r"(?:\u5fae\u4fe1|[vV]\u4fe1)", r"(?<![A-Za-z])(?i:wechat|weixin|vx|wx)"
_IS, _HAO = r"(?:[:=\uff1a]|\u662f|\u4e3a)", r"\u53f7"
_NAME = r"\s*(?P<it>[A-Za-z][\w-]{5,19})(?![\w-])"
_ASKS = r"(?i:api[-_ ]?key|secret|access[-_ ]?key|token|passw(?:or)?d|\u5bc6\u94a5|\u5bc6\u7801|\u53e3\u4ee4)"
_KEY = r"[sp]k-[\w-]{16,}|AKIA[0-9A-Z]{16}|gh[pousr]_\w{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
# In this order: what one kind took no other sees, and an identity may begin as a card does.
KINDS = (
    Kind("key", re.compile(rf"(?<![\w-])(?P<it>{_KEY})", re.A), _mixed, _marked),
    Kind(
        "key",
        re.compile(rf"{_ASKS}[\"']?\s*{_IS}\s*[\"']?(?P<it>[0-9A-Fa-f]{{16,}}|[\w+/-]{{20,}})", re.A),
        _mixed,
        _marked,
    ),
    Kind(
        "email",
        re.compile(r"(?<![\w.+-])(?P<it>[\w.+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})", re.A),
        lambda text: not re.search(rf"[@.]{_MARK}(?:\.\w+)?$", text),
        lambda _, rng: "".join(rng.choices(string.ascii_lowercase, k=8)) + f"@{_MARK}.com",
    ),
    Kind("id_card", _number(rf"[1-9]\d{{5}}{_DATE}\d{{3}}[\dXx]"), _identity, _wrong),
    Kind("bank_card", _number(r"[3-6]\d{14,18}|[3-6]\d{3}(?:[ -]\d{4}){3}(?:[ -]\d{1,3})?"), _luhn, _wrong),
    # No mobile number begins with 12, and no area code with 00.
    Kind("phone", _number(r"1[3-9]\d([ -]?)\d{4}\2\d{4}"), bool, lambda text, rng: "12" + _like(text[2:], rng)),
    Kind("phone", _number(r"0[1-9]\d{1,2}-\d{7,8}"), bool, lambda text, rng: "00" + _like(text[2:], rng)),
    Kind(
        "wechat",
        re.compile(rf"(?:{_CHAT}\s*{_HAO}\s*{_IS}?|(?:{_CHAT}|{_CHAT_LATIN})\s*(?i:id)\s*{_IS}){_NAME}", re.A),
        lambda text: _MARK not in text,
        _marked,
    ),
    Kind("wechat", re.compile(rf"(?:{_CHAT}\s*{_IS}?|{_CHAT_LATIN}\s*{_IS}){_NAME}", re.A), _mixed, _marked),
)


def _exchange(text: str, write: Callable[[Kind, str], str]) -> str:
    for kind in KINDS:

        def put(match: re.Match[str], kind: Kind = kind) -> str:
            it, start = match["it"], match.start()
            if not kind.right(it):
                return match[0]
            return match[0][: match.start("it") - start] + write(kind, it) + match[0][match.end("it") - start :]

        text = kind.pattern.sub(put, text)
    return text


def find(text: str) -> Counter[str]:
    """Number of matches of each kind in a text."""
    counts: Counter[str] = Counter()

    def count(kind: Kind, it: str) -> str:
        counts[kind.name] += 1
        return "\0" * len(it)

    _exchange(text, count)
    return counts


def mask(text: str, known: dict[str, str]) -> str:
    """A text with surrogates; `known` remembers them from text to text, and must never be written anywhere."""

    def surrogate(kind: Kind, it: str) -> str:
        if it not in known:
            rng = random.Random(f"{kind.name}/{len(known)}")
            known[it] = next(new for _ in range(100) if (new := kind.other(it, rng)) not in known.values())
        return known[it]

    return _exchange(text, surrogate)


def apply(texts: Sequence[str], mode: Mode) -> tuple[list[str | None], dict[str, Any]]:
    """Texts after their treatment, None for one that is dropped, and the counts, which are all that is ever reported.

    `report` changes nothing; `mask` writes surrogates; `drop` leaves out each text with a hit; `off` does not look.
    """
    if mode == "off":
        return list(texts), {}
    hits = [find(text) for text in texts]
    counts = {
        "found": dict(sorted(sum(hits, Counter[str]()).items())),
        "texts": sum(bool(hit) for hit in hits),
        "of": len(texts),
    }
    known: dict[str, str] = {}
    kept: list[str | None] = [
        text if not hit else _TREATED[mode](text, known) for text, hit in zip(texts, hits, strict=True)
    ]
    return kept, counts


_TREATED: dict[str, Callable[[str, dict[str, str]], str | None]] = {
    "report": lambda text, _: text,
    "mask": mask,
    "drop": lambda _, __: None,
}


# Records without personal data: what `pii` finds in a text, looked for in all that a record says.


def _leaves(value: Any) -> list[str]:
    """Every string and number inside a value, in order; a phone may be written as a number."""
    if isinstance(value, dict | list):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(inner)]
    return [str(value)] if isinstance(value, str | int | float) and not isinstance(value, bool) else []


def _filled(value: Any, leaves: Iterator[str]) -> Any:
    """The value with its strings and numbers taken from `leaves`; what has not changed keeps its type."""
    if isinstance(value, dict):
        return {key: _filled(inner, leaves) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, leaves) for inner in value]
    if not _leaves(value):
        return value
    return value if (told := next(leaves)) == str(value) else told


def records(rows: Sequence[R], mode: Mode) -> tuple[list[R], dict[str, Any]]:
    """Records after the treatment of their texts and facts; with `drop`, one hit drops the whole record.

    A row may hold `rejected`, the worse text of a table, beside the keys of a Record.
    """
    parts = [{key: row[key] for key in ("text", "rejected", "facts") if key in row} for row in rows]
    leaves = [_leaves(part) for part in parts]
    treated, counts = apply(list(itertools.chain.from_iterable(leaves)), mode)
    remaining = iter(treated)
    clean: list[R] = []
    for row, part, originals in zip(rows, parts, leaves, strict=True):
        texts = [text for text in itertools.islice(remaining, len(originals)) if text is not None]
        if len(texts) == len(originals):
            clean.append(cast(R, {**row, **_filled(part, iter(texts))}))
    return clean, counts
