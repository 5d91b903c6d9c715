"""A folder of Markdown as documents: what an author wrote, without what is no prose, every line traced to its source.

Front matter, code, HTML, pictures, rules and link references go, tables by choice; headings, lists and quotes stay, as
they are written. Title, date, author and tags come from lib/meta. Hidden files and folders are not read.
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

# What is told about a text beside its words: front matter and meta.json, as title, date, author and tags.
#
# Beside `essay.md` there may be `essay.meta.json`, and in any folder a `meta.json` that speaks for all files in and
# under it; the file's own front matter (YAML between ---, TOML between +++) stands between the two. The nearest word
# counts: essay.meta.json, front matter, meta.json of the nearest folder, of the next one up. Other keys are free.

Meta = dict[str, Any]  # title, date (YYYY-MM-DD), author: text; tags: list of text; only those that are told

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


def _object(path: Path) -> Meta:
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}:1:1: expected an object of {', '.join(KEYS)}, got {type(found).__name__}")
    return found


def _checked(path: Path, told: Meta) -> Meta:
    """The known keys, as text; refuses the file that holds another type, and a date that is none."""
    found: Meta = {}
    for key in KEYS:
        value = told.get(key)
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
        found[key] = value
    return found


def front_matter(path: Path, text: str) -> tuple[Meta, int]:
    """Front matter and the number of lines that it takes; a rule at the top of a text is none."""
    lines = text.split("\n")
    mark = lines[0].rstrip()
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == mark), 0)
    if mark not in _FENCES or not end:
        return {}, 0
    body = "\n".join(lines[1:end])
    try:
        found: Any
        if mark == "+++":
            import tomllib

            found = tomllib.loads(body)
        else:
            from ruamel.yaml import YAML

            found = YAML(typ="safe", pure=True).load(body)
    except Exception as err:  # two libraries, each with a family of its own; all of them say where
        place = getattr(getattr(err, "problem_mark", None), "line", None)
        reason = str(getattr(err, "problem", None) or err).split("\n")[0]
        raise UserError(
            f"{path}:{1 if place is None else place + 2}: front matter is not {_FENCES[mark]}: {reason}"
        ) from None
    if found is None or isinstance(found, dict):
        return _checked(path, found or {}), end + 1
    return {}, 0


def beside(path: Path) -> Meta:
    """What a .json file tells, and nothing where there is none."""
    return _checked(path, _object(path)) if path.is_file() else {}


if TYPE_CHECKING:
    from markdown_it.token import Token

Tables = Literal["drop", "keep"]
Lines = list[tuple[int, str]]  # line of the source, from 1, and its words

# Tokens whose lines are no prose, and the name that their number is reported by.
_DROPPED = {"fence": "code", "code_block": "code", "html_block": "html", "hr": "rule"}


@dataclass(frozen=True)
class Document:
    """One file. `text` is all that is kept of it; `starts` says where in it each kept line begins."""

    id: str
    source: str  # path in the folder
    meta: Meta
    text: str = ""
    starts: tuple[int, ...] = ()  # offset in `text` of each kept line
    numbers: tuple[int, ...] = ()  # the line of the source that it is
    # Where in `text` each block begins, and the level of the heading that it is; 0 is no heading.
    blocks: dict[int, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def line(self, offset: int) -> int:
        """The line of the source, from 1, that a character of `text` stands in."""
        return self.numbers[bisect_right(self.starts, offset) - 1]


def _tokens(text: str) -> list[Token]:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").parse(text)


def _without_tags(words: str, token: Token) -> str:
    """The source of a paragraph without its inline HTML; the words between two tags stay."""
    at = 0
    for child in token.children or []:
        if child.type == "code_inline":  # which may well hold what looks like a tag; its marks say where it stands
            mark, said = map(re.escape, (child.markup, child.content))
            if code := re.compile(f"{mark} ?{said}").search(words, at):
                at = code.end()
        elif child.type == "html_inline" and (found := words.find(child.content, at)) >= 0:
            # Lines are counted: a comment over three lines leaves three, and <br> parts two words.
            gap = "\n" * child.content.count("\n") or (" " if child.content.lower().startswith("<br") else "")
            words, at = words[:found] + gap + words[found + len(child.content) :], found + len(gap)
    return words


def _wordless(token: Token) -> bool:
    return {child.type for child in token.children or []} <= {"image", "softbreak", "hardbreak"}


def _prose(tokens: list[Token], lines: list[str], tables: Tables) -> tuple[set[int], Counter[str]]:
    """The numbers (from 0) of the lines that are no prose, and how many blocks of each kind they are.

    Edits `lines` where a line loses its tags.
    """
    away: set[int] = set()
    dropped: Counter[str] = Counter()
    for token in tokens:
        kind = _DROPPED.get(token.type)
        if token.type == "table_open" and tables == "drop":
            kind = "table"
        if token.type == "inline" and token.children and _wordless(token):
            kind = "image"
        if token.map and token.type == "inline" and token.children:
            first, end = token.map
            lines[first:end] = _without_tags("\n".join(lines[first:end]), token).split("\n")
        if token.map and kind:
            away.update(range(*token.map))
            dropped[kind] += 1
    return away, dropped


def _block(lines: list[str], span: list[int], away: set[int]) -> Lines:
    """The kept lines of a block, with at most one blank line in a row and none at either end."""
    kept: Lines = []
    for number in range(*span):
        if number not in away and (lines[number].strip() or (kept and kept[-1][1])):
            kept.append((number + 1, lines[number].rstrip()))
    while kept and not kept[-1][1]:
        kept.pop()
    return kept


def read(path: Path, source: str, told: Meta, tables: Tables) -> Document:
    """One file as a document; `told` is what the folders above say. A file of nothing but code is an empty document."""
    text = read_text(path)
    header, skip = front_matter(path, text)
    lines = text.split("\n")
    lines[:skip] = [""] * skip  # line numbers stay those of the file
    tokens = _tokens("\n".join(lines))
    away, dropped = _prose(tokens, lines, tables)
    parts: list[str] = []
    starts, numbers, blocks = [], [], {}
    length, title = 0, ""
    for at, token in enumerate(tokens):
        if token.level or not token.map or not (kept := _block(lines, token.map, away)):
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
    told = {"title": title or path.stem, "date": "", records.AUTHOR: "", "tags": [], **told, **header}
    told |= beside(path.with_suffix(".meta.json"))
    name = re.sub(r"[^\w.-]+", "-", str(Path(source).with_suffix(""))).strip("-")
    return Document(name, source, told, "\n\n".join(parts), tuple(starts), tuple(numbers), blocks, dropped)


def documents(folder: str | Path, tables: Tables) -> list[Document]:
    """Every .md and .markdown file of a folder, at any depth, in the order of their paths.

    Refuses, in one line, a folder without any, a file that is not UTF-8, a bad meta.json and two files of one id.
    """
    root, found = Path(folder), []
    told: dict[Path, Meta] = {}
    for path in sorted((p for p in root.rglob("*") if p.suffix.lower() in (".md", ".markdown")), key=lambda p: p.parts):
        inside = path.relative_to(root)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        for above in reversed([*path.parents][: len(inside.parts)]):  # from the top, so that the nearest word counts
            if above not in told:
                told[above] = {**told.get(above.parent, {}), **beside(above / "meta.json")}
        found.append(read(path, inside.as_posix(), told[path.parent], tables))
    ids: dict[str, Document] = {}
    for one in found:
        if (other := ids.setdefault(one.id, one)) is not one:
            raise UserError(f"{root}: {other.source} and {one.source} both get the id {one.id!r}; rename one of them")
    if not any(one.text for one in found):
        raise UserError(f"{root}: holds no Markdown file with prose; put one .md or more into it, at any depth")
    return found
