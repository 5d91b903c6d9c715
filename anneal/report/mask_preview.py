"""The loss mask of one training sample, token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from anneal import html
from anneal.dataset import chat_template
from anneal.dataset.chat_template import IGNORE, Encoded
from anneal.errors import UserError
from anneal.history.revision import Snapshot
from anneal.html import el

TRAIN = "data/train.jsonl"
BASE = Path("models/base")
LIMIT = 1200  # tokens of a page; a longer sample shows those around the start of the output
BROKEN = "\ufffd"  # the decoder's sign for a character that continues in the next token


def load(folder: Path) -> Any:
    """The tokenizer of a folder, from its tokenizer.json alone; an import of torch would take seconds."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as err:  # a broken tokenizer.json raises errors of any type
        message = (str(err).splitlines() or [""])[0]
        raise UserError(f"{folder}: no tokenizer could be loaded: {type(err).__name__} {message}") from None


def pieces(tokenizer: Any, ids: list[int], labels: list[int]) -> list[tuple[str, bool, bool]]:
    """(text, whether it carries loss, whether it is a control token); tokens that share a character stay together."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    parts: list[tuple[str, bool, bool]] = []

    def decode(first: int, end: int) -> str:
        return str(tokenizer.decode(ids[first:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    start = 0
    for end in range(1, len(ids) + 1):
        # Decoded with the token before it: SentencePiece drops the space before the first word of a text.
        head = max(start - 1, 0)
        before, both = decode(head, start), decode(head, end)
        text = both[len(before) :] if both.startswith(before) else decode(start, end)
        last = end == len(ids) or (labels[end] == IGNORE) != (labels[start] == IGNORE) or ids[end] in special
        if BROKEN in text and not last:
            continue
        parts.append((text, labels[start] != IGNORE, ids[start] in special))
        start = end
    return parts


def sample() -> dict[str, Any] | None:
    """The first training record, None where there is none; the same rules mask all others. UserError if not JSON."""
    with Path(TRAIN).open("rb") as file:
        line = file.readline()
    try:
        record = json.loads(line) if line.strip() else None
    except ValueError:
        raise UserError(f"{TRAIN}:1: not JSON; `dvc repro split`") from None
    return record if isinstance(record, dict) and {"prompt", "completion"} <= record.keys() else None


def window(row: Encoded) -> tuple[int, int]:
    """First and last position of the shown tokens: all, or of a long sample those around the first token with loss."""
    first = next((i for i, label in enumerate(row.labels) if label != IGNORE), 0)
    start = max(0, min(first - LIMIT // 2, len(row.ids) - LIMIT))
    return start, min(len(row.ids), start + LIMIT)


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """The sample with loss and context tokens in two colours, and a legend; empty without data or tokenizer."""
    if not Path(TRAIN).is_file() or not (BASE / "tokenizer.json").is_file():
        return Markup("")
    setting = (now.params.get("train") or {}).get("turns")
    turns: Literal["last", "all"] = "all" if setting == "all" else "last"
    try:
        record = sample()
        if record is None:
            return Markup("")
        tokenizer = load(BASE)
        row = chat_template.encode(tokenizer, record["prompt"], record["completion"], turns)
    except UserError as err:
        return el("p", f"No preview: {err}")
    start, end = window(row)
    parts = pieces(tokenizer, row.ids[start:end], row.labels[start:end])
    # A line break is a token too: shown as a sign, and still a break.
    spans = [
        el("span", text.replace("\n", "↵\n"), class_=f"{'learnt' if learnt else 'read'}{' special' if control else ''}")
        for text, learnt, control in parts
    ]
    learnt = sum(label != IGNORE for label in row.labels)
    words = (
        f"The first training sample, {record.get('id', '–')}, as encoded for training: {learnt} of {len(row.ids)} "
        f"tokens carry loss, {row.stops} of them stop tokens; the others are context (train.turns: {turns})."
    )
    cut = f"Tokens {start + 1} to {end} are shown." if end - start < len(row.ids) else ""
    key = el("p", el("span", "carries loss", class_="learnt"), " ", el("span", "context only", class_="read"))
    return html.join(el("p", words), el("p", cut) if cut else "", key, el("pre", *spans, class_="tokens"))
