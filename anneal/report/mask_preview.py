"""One training sample, token by token: what carries loss and what is only read."""

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

TRAIN, BASE = "data/train.jsonl", Path("models/base")
LIMIT = 1200  # tokens of a page; of a longer sample those around the start of the output are shown
BROKEN = "\ufffd"  # a character whose bytes are spread over several tokens


def load(folder: Path) -> Any:
    """The tokenizer of a folder as its tokenizer.json holds it: no torch is imported, which would take seconds."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as err:  # what a broken tokenizer.json raises is not to be foreseen
        said = (str(err).splitlines() or [""])[0]
        raise UserError(f"{folder}: no tokenizer could be loaded: {type(err).__name__} {said}") from None


def pieces(tokenizer: Any, ids: list[int], labels: list[int]) -> list[tuple[str, bool, bool]]:
    """(text, whether it carries loss, whether it is a control token); tokens that share a character stay together."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    found: list[tuple[str, bool, bool]] = []

    def decode(first: int, end: int) -> str:
        return str(tokenizer.decode(ids[first:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    start = 0
    for end in range(1, len(ids) + 1):
        # Behind its neighbour: SentencePiece drops the space before the first word that it decodes.
        head = max(start - 1, 0)
        before, both = decode(head, start), decode(head, end)
        text = both[len(before) :] if both.startswith(before) else decode(start, end)
        last = end == len(ids) or (labels[end] == IGNORE) != (labels[start] == IGNORE) or ids[end] in special
        if BROKEN in text and not last:
            continue
        found.append((text, labels[start] != IGNORE, ids[start] in special))
        start = end
    return found


def sample() -> dict[str, Any] | None:
    """The first record of the training part; the others are masked by the same rules."""
    with Path(TRAIN).open("rb") as file:
        line = file.readline()
    try:
        record = json.loads(line) if line.strip() else None
    except ValueError:
        raise UserError(f"{TRAIN}:1: not JSON; `dvc repro split`") from None
    return record if isinstance(record, dict) and {"prompt", "completion"} <= record.keys() else None


def window(row: Encoded) -> tuple[int, int]:
    """Which tokens are shown: all, or of a long sample those before and behind the first learnt one."""
    first = next((i for i, label in enumerate(row.labels) if label != IGNORE), 0)
    start = max(0, min(first - LIMIT // 2, len(row.ids) - LIMIT))
    return start, min(len(row.ids), start + LIMIT)


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """The sample in two colours, with the words that say what is what; empty without data or tokenizer."""
    if not Path(TRAIN).is_file() or not (BASE / "tokenizer.json").is_file():
        return Markup("")
    wanted = (now.params.get("train") or {}).get("turns")
    turns: Literal["last", "all"] = "all" if wanted == "all" else "last"
    try:
        if (record := sample()) is None:
            return Markup("")
        tokenizer = load(BASE)
        row = chat_template.encode(tokenizer, record["prompt"], record["completion"], turns)
    except UserError as err:
        return el("p", f"No preview: {err}")
    start, end = window(row)
    shown = pieces(tokenizer, row.ids[start:end], row.labels[start:end])
    # A line break is a token like any other: seen, and still a break.
    spans = [
        el("span", text.replace("\n", "↵\n"), class_=f"{'learnt' if learnt else 'read'}{' special' if control else ''}")
        for text, learnt, control in shown
    ]
    learnt = sum(label != IGNORE for label in row.labels)
    words = (
        f"The first training sample, {record.get('id', '–')}, as train sees it: {learnt} of {len(row.ids)} tokens "
        f"carry loss, stops among them: {row.stops}; the others are only read (train.turns: {turns})."
    )
    cut = f"Tokens {start + 1} to {end} are shown." if end - start < len(row.ids) else ""
    key = el("p", el("span", "carries loss", class_="learnt"), " ", el("span", "only read", class_="read"))
    return html.join(el("p", words), el("p", cut) if cut else "", key, el("pre", *spans, class_="tokens"))
