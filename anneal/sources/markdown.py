"""Markdown files of a folder as documents of prose, with metadata; every kept line maps to its source line.

Front matter, code, HTML, pictures, rules and link references are dropped, tables by choice; headings, lists and quotes
are kept as written. Hidden files and folders are not read.

Metadata (title, date, author, tags) come from the front matter of a file (YAML between ---, TOML between +++), from
`essay.meta.json` beside `essay.md`, and from `meta.json` in any folder, which holds for all files in and under it. The
most specific source wins: essay.meta.json, front matter, meta.json of the nearest folder, of the next one up. Other
keys are ignored.
"""

from __future__ import annotations

import datetime
import json
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anneal import records
from anneal.errors import UserError
from anneal.records import AUTHOR

Meta = dict[str, Any]  # title, date (YYYY-MM-DD), author: text; tags: list of text; absent keys are unset

KEYS = ("title", "date", AUTHOR, "tags")

_FENCES = {"---": "YAML", "+++": "TOML"}


def read_text(path: Path) -> str:
    """The text of a file, with \\n at every line end, as the parser of Markdown counts lines."""
    raw = path.read_bytes()
    try:
        return re.sub(r"\r\n?", "\n", raw.decode("utf-8-sig"))
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 at byte {err.start}; save the file as UTF-8") from None


def _read_object(path: Path) -> Meta:
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}:1:1: expected an object of {', '.join(KEYS)}, got {type(value).__name__}")
    return value


def _validated(path: Path, raw: Meta) -> Meta:
    """The known keys as text, empty ones left out. Raises UserError for a wrong type or an invalid date."""
    meta: Meta = {}
    for key in KEYS:
        value = raw.get(key)
        if value in (None, "", []):
            continue
        if key == "tags":
            fits = isinstance(value, list) and all(isinstance(tag, str) for tag in value)
        else:
            value = value.isoformat() if isinstance(value, datetime.date) else value
            fits = isinstance(value, str)
        if not fits:
            raise UserError(f"{path}: {key}: expected {'a list of words' if key == 'tags' else 'text'}, got {value!r}")
        if key == "date":
            try:
                value = datetime.date.fromisoformat(value[:10]).isoformat()
            except ValueError:
                raise UserError(f"{path}: date: expected YYYY-MM-DD, got {value!r}") from None
        meta[key] = value
    return meta


def front_matter(path: Path, text: str) -> tuple[Meta, int]:
    """Parse the front matter. Returns it with its number of lines, or ({}, 0); a rule at the top of a text is none.

    Raises UserError with the line for invalid YAML or TOML.
    """
    lines = text.split("\n")
    mark = lines[0].rstrip()
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == mark), 0)
    if mark not in _FENCES or not end:
        return {}, 0
    body = "\n".join(lines[1:end])
    try:
        parsed: Any
        if mark == "+++":
            import tomllib

            parsed = tomllib.loads(body)
        else:
            from ruamel.yaml import YAML

            parsed = YAML(typ="safe", pure=True).load(body)
    except Exception as err:  # each library has its own family of errors; all of them carry a line or name it
        place = getattr(getattr(err, "problem_mark", None), "line", None)
        reason = str(getattr(err, "problem", None) or err).split("\n")[0]
        raise UserError(
            f"{path}:{1 if place is None else place + 2}: front matter is not {_FENCES[mark]}: {reason}"
        ) from None
    if parsed is None or isinstance(parsed, dict):
        return _validated(path, parsed or {}), end + 1
    return {}, 0


def beside(path: Path) -> Meta:
    """Metadata of a .json file; {} where the file does not exist."""
    return _validated(path, _read_object(path)) if path.is_file() else {}


if TYPE_CHECKING:
    from markdown_it.token import Token

Tables = Literal["drop", "keep"]
Lines = list[tuple[int, str]]  # line number in the source, from 1, and its text

# Tokens whose lines are dropped, and the key under which their number is reported.
_DROPPED = {"fence": "code", "code_block": "code", "html_block": "html", "hr": "rule"}


@dataclass(frozen=True)
class Document:
    """One file. `text` holds its kept lines; `starts` and `numbers` map them to the lines of the source."""

    id: str
    source: str  # path in the folder
    meta: Meta
    text: str = ""
    starts: tuple[int, ...] = ()  # offset in `text` of each kept line
    numbers: tuple[int, ...] = ()  # source line of each kept line, from 1
    # Offset in `text` of each block -> level of the heading; 0 for other blocks.
    blocks: dict[int, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def line(self, offset: int) -> int:
        """Source line, from 1, of the character at an offset of `text`."""
        return self.numbers[bisect_right(self.starts, offset) - 1]


def _tokens(text: str) -> list[Token]:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").parse(text)


def _without_tags(source: str, token: Token) -> str:
    """Remove inline HTML from the source of a paragraph; the text between two tags is kept."""
    at = 0  # end of the part that is done
    for child in token.children or []:
        if child.type == "code_inline":  # code may contain text that looks like a tag: skip it
            mark, content = re.escape(child.markup), re.escape(child.content)
            if code := re.compile(f"{mark} ?{content}").search(source, at):
                at = code.end()
        elif child.type == "html_inline" and (start := source.find(child.content, at)) >= 0:
            # The number of lines stays: a comment over three lines leaves three. <br> separates two words.
            end = start + len(child.content)
            gap = "\n" * child.content.count("\n") or (" " if child.content.lower().startswith("<br") else "")
            source = source[:start] + gap + source[end:]
            at = start + len(gap)
    return source


def _is_image_only(token: Token) -> bool:
    return {child.type for child in token.children or []} <= {"image", "softbreak", "hardbreak"}


def _drop_blocks(tokens: list[Token], lines: list[str], tables: Tables) -> tuple[set[int], Counter[str]]:
    """Numbers (from 0) of the lines to drop, and the number of dropped blocks by kind.

    Removes inline HTML from `lines` in place.
    """
    dropped_lines: set[int] = set()
    dropped: Counter[str] = Counter()
    for token in tokens:
        kind = _DROPPED.get(token.type)
        if token.type == "table_open" and tables == "drop":
            kind = "table"
        if token.type == "inline" and token.children and _is_image_only(token):
            kind = "image"
        if token.map and token.type == "inline" and token.children:
            first, end = token.map
            lines[first:end] = _without_tags("\n".join(lines[first:end]), token).split("\n")
        if token.map and kind:
            dropped_lines.update(range(*token.map))
            dropped[kind] += 1
    return dropped_lines, dropped


def _block(lines: list[str], span: list[int], dropped_lines: set[int]) -> Lines:
    """The kept lines of a block, with at most one blank line in a row and none at either end."""
    kept: Lines = []
    for number in range(*span):
        if number not in dropped_lines and (lines[number].strip() or (kept and kept[-1][1])):
            kept.append((number + 1, lines[number].rstrip()))
    while kept and not kept[-1][1]:
        kept.pop()
    return kept


def read(path: Path, source: str, inherited: Meta, tables: Tables) -> Document:
    """Read one file as a document; `inherited` holds the metadata of its folders. Code alone gives an empty text."""
    text = read_text(path)
    header, skip = front_matter(path, text)
    lines = text.split("\n")
    lines[:skip] = [""] * skip  # line numbers stay those of the file
    tokens = _tokens("\n".join(lines))
    dropped_lines, dropped = _drop_blocks(tokens, lines, tables)
    parts: list[str] = []
    starts, numbers, blocks = [], [], {}
    length, title = 0, ""
    for at, token in enumerate(tokens):
        if token.level or not token.map or not (kept := _block(lines, token.map, dropped_lines)):
            continue
        level = int(token.tag[1]) if token.type == "heading_open" else 0
        title = title or (tokens[at + 1].content if level == 1 else "")
        blocks[length] = level
        for number, line in kept:
            starts.append(length)
            numbers.append(number)
            length += len(line) + 1
        parts.append("\n".join(line for _, line in kept))
        length += 1  # blocks are two line ends apart
    meta = {"title": title or path.stem, "date": "", records.AUTHOR: "", "tags": [], **inherited, **header}
    meta |= beside(path.with_suffix(".meta.json"))
    name = re.sub(r"[^\w.-]+", "-", str(Path(source).with_suffix(""))).strip("-")
    return Document(name, source, meta, "\n\n".join(parts), tuple(starts), tuple(numbers), blocks, dropped)


def documents(folder: str | Path, tables: Tables) -> list[Document]:
    """Read every .md and .markdown file of a folder, at any depth, in the order of their paths.

    Raises UserError for a folder without prose, a file that is not UTF-8, a bad meta.json and two files of one id.
    """
    root = Path(folder)
    texts: list[Document] = []
    inherited: dict[Path, Meta] = {}  # by folder
    for path in sorted((p for p in root.rglob("*") if p.suffix.lower() in (".md", ".markdown")), key=lambda p: p.parts):
        inside = path.relative_to(root)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        for above in reversed([*path.parents][: len(inside.parts)]):  # from the top: the nearest folder overrides
            if above not in inherited:
                inherited[above] = {**inherited.get(above.parent, {}), **beside(above / "meta.json")}
        texts.append(read(path, inside.as_posix(), inherited[path.parent], tables))
    ids: dict[str, Document] = {}
    for document in texts:
        other = ids.setdefault(document.id, document)
        if other is not document:
            sources = f"{other.source} and {document.source}"
            raise UserError(f"{root}: {sources} both get the id {document.id!r}; rename one of them")
    if not any(document.text for document in texts):
        raise UserError(f"{root}: holds no Markdown file with prose; put one .md or more into it, at any depth")
    return texts
