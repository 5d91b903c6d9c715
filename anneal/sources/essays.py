"""Style records from chunks of essays, by three templates: rewrite plain text, continue a text, expand a summary.

The text of a record is the author's own; its fact `given` is the input from which a model is to write that text. For
`continue` it is the start of the chunk. For the other templates a teacher writes it: this module builds the requests
and fills in the answers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from anneal import prompts
from anneal.llm.request import Answer, Call
from anneal.params import Count, Section
from anneal.records import AUTHOR, Metrics, Record
from anneal.sources import markdown, pii
from anneal.sources.chunks import Chunk, chunks, ends, tokens
from anneal.sources.markdown import Document

Template = Literal["rewrite", "continue", "expand"]


class Markdown(Section):
    """How essays become records."""

    templates: Annotated[list[Template], Field(min_length=1)]
    min_tokens: Count  # of a chunk
    max_tokens: Count
    tables: Literal["drop", "keep"]

    @model_validator(mode="after")
    def _band(self) -> Markdown:
        if self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens is more than max_tokens")
        return self


def safe(parts: Sequence[Chunk], mode: pii.Mode) -> tuple[list[Chunk], Metrics]:
    """Apply `mode` to personal data in texts and titles. Returns the remaining chunks and the counts of hits."""
    titles = list(dict.fromkeys(part.title for part in parts))
    texts, counts = pii.apply([*titles, *(part.text for part in parts)], mode)
    safe_titles = dict(zip(titles, texts, strict=False))  # the texts of the chunks follow the titles
    safe_chunks = []
    for part, text in zip(parts, texts[len(titles) :], strict=True):
        if text is not None and (title := safe_titles[part.title]) is not None:
            safe_chunks.append(replace(part, text=text, title=title))
    return safe_chunks, counts


def _split_point(text: str) -> int:
    """Offset of the sentence end nearest to a third of the tokens of a text; 0 for a single sentence."""
    offsets = [at for at in ends(text) if text[:at].strip() and text[at:].strip()]
    third = tokens(text) / 3
    return min(offsets, key=lambda at: abs(tokens(text[:at]) - third), default=0)


def records(parts: Sequence[Chunk], templates: Sequence[Template]) -> list[Record]:
    """One record per chunk and template; `given` is empty where a teacher must write it first.

    A chunk of a single sentence gives no `continue` record.
    """
    rows: list[Record] = []
    for part, template in itertools.product(parts, templates):
        meta = part.document.meta
        given, text = "", part.text
        if template == "continue":
            at = _split_point(text)
            if not at:
                continue
            given, text = text[:at].rstrip(), text[at:].strip("\n")
        facts = {AUTHOR: meta[AUTHOR], "title": part.title, "date": meta["date"], "given": given}
        facts |= {"source": part.document.source, "lines": part.lines}
        name = f"{part.document.id}-{part.number}/{template}/0"
        rows.append({"id": name, "item": part.document.id, "type": template, "facts": facts, "text": text})
    return rows


def calls(rows: Iterable[Record], folder: Path) -> list[Call]:
    """Requests to the teacher for rows without `given`. The prompt file is named as the template; its slots are the
    facts and $text."""
    rows = [row for row in rows if not row["facts"]["given"]]
    templates = {name: prompts.Prompt(folder / f"{name}.md") for name in sorted({row["type"] for row in rows})}
    slots = [{**prompts.slots(row["facts"]), "text": row["text"]} for row in rows]
    return [Call(row["id"], templates[row["type"]].messages(**values)) for row, values in zip(rows, slots, strict=True)]


def fill_given(rows: Iterable[Record], answers: Iterable[Answer]) -> list[Record]:
    """Fill `given` with the teacher's answers; records whose call failed or came back empty are left out."""
    texts = {answer.id: answer.text.strip() for answer in answers if answer.status != "failed"}
    filled: list[Record] = []
    for row in rows:
        if given := row["facts"]["given"] or texts.get(row["id"], ""):
            filled.append({**row, "facts": {**row["facts"], "given": given}})
    return filled


def summary(documents: Sequence[Document], parts: Sequence[Chunk], least: int) -> dict[str, Any]:
    """Metrics of the essays: documents, authors, dropped blocks, chunks, and chunks shorter than `least` tokens."""
    sizes = sorted(tokens(part.text) for part in parts)
    return {
        "documents": len(documents),
        "authors": Counter(str(document.meta[AUTHOR]) for document in documents),
        "dropped": sum((document.dropped for document in documents), Counter()),
        "chunks": len(parts),
        "short": sum(size < least for size in sizes),
        "tokens": {"least": sizes[0], "median": sizes[len(sizes) // 2], "most": sizes[-1]} if sizes else {},
    }


def read(
    folder: str | Path, templates: Sequence[Template], least: int, most: int, tables: markdown.Tables, mode: pii.Mode
) -> tuple[list[Record], dict[str, Any]]:
    """Read a folder of Markdown as records, with `given` empty where a teacher must write it. Returns also metrics.

    Personal data is treated here, before any request is sent.
    """
    documents = markdown.documents(folder, tables)
    parts, counts = safe([part for document in documents for part in chunks(document, least, most)], mode)
    return records(parts, templates), {"essays": summary(documents, parts, least), "pii": counts}
