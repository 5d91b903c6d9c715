"""The records that teach a style, made of chunks: rewrite plain words, continue a text, expand a summary.

Each holds the author's own words as its text, and as the fact `given` what they are to be made from. The start of a
chunk is cut from it; plain words and summaries a teacher writes, who is asked here and answered elsewhere.
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
    """Chunks after the treatment of personal data, texts and titles, and its counts."""
    titles = list(dict.fromkeys(part.title for part in parts))
    texts, counts = pii.apply([*titles, *(part.text for part in parts)], mode)
    named = dict(zip(titles, texts, strict=False))
    kept = []
    for part, text in zip(parts, texts[len(titles) :], strict=True):
        if text is not None and (title := named[part.title]) is not None:
            kept.append(replace(part, text=text, title=title))
    return kept, counts


def _head(text: str) -> int:
    """The sentence end that is nearest to a third of a text; 0 for a single sentence."""
    places = [at for at in ends(text) if text[:at].strip() and text[at:].strip()]
    third = tokens(text) / 3
    return min(places, key=lambda at: abs(tokens(text[:at]) - third), default=0)


def records(parts: Sequence[Chunk], templates: Sequence[Template]) -> list[Record]:
    """One record for each chunk and template; what a teacher must write first, `given`, is empty.

    A chunk of one sentence cannot be continued and gives no such record.
    """
    rows: list[Record] = []
    for part, template in itertools.product(parts, templates):
        meta = part.document.meta
        given, text = "", part.text
        if template == "continue":
            if not (at := _head(text)):
                continue
            given, text = text[:at].rstrip(), text[at:].strip("\n")
        facts = {AUTHOR: meta[AUTHOR], "title": part.title, "date": meta["date"], "given": given}
        facts |= {"source": part.document.source, "lines": part.lines}
        name = f"{part.document.id}-{part.number}/{template}/0"
        rows.append({"id": name, "item": part.document.id, "type": template, "facts": facts, "text": text})
    return rows


def calls(rows: Iterable[Record], folder: Path) -> list[Call]:
    """What the teacher is asked, by the prompt named as the template, with the facts and the $text as its slots."""
    rows = [row for row in rows if not row["facts"]["given"]]
    asked = {name: prompts.Prompt(folder / f"{name}.md") for name in sorted({row["type"] for row in rows})}
    slots = [{**prompts.slots(row["facts"]), "text": row["text"]} for row in rows]
    return [Call(row["id"], asked[row["type"]].messages(**said)) for row, said in zip(rows, slots, strict=True)]


def given(rows: Iterable[Record], answers: Iterable[Answer]) -> list[Record]:
    """The records with the teacher's words as `given`; those whose call failed are left out."""
    texts = {answer.id: answer.text.strip() for answer in answers if answer.status != "failed"}
    words = [(row, row["facts"]["given"] or texts.get(row["id"], "")) for row in rows]
    return [{**row, "facts": {**row["facts"], "given": given}} for row, given in words if given]


def summary(documents: Sequence[Document], parts: Sequence[Chunk], least: int) -> dict[str, Any]:
    """For a metric: how much was read, by whom, what was left out, and how many chunks are shorter than wanted."""
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
    """A folder of Markdown as records, `given` still empty where a teacher must write it; and all counts.

    Personal data is treated here, before anybody is asked anything.
    """
    documents = markdown.documents(folder, tables)
    parts, counts = safe([part for document in documents for part in chunks(document, least, most)], mode)
    return records(parts, templates), {"essays": summary(documents, parts, least), "pii": counts}
