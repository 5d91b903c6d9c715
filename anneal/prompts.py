"""Prompts are plain Markdown with $slots; a `# System` and a `# User` heading part the two messages."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from string import Template
from typing import Any

from anneal.errors import UserError

_HEADING = re.compile(r"^# (System|User)\s*$", re.M)


class Prompt:
    """One prompt file. Raises UserError for a stray `$`, a missing file, or (on render) an unknown slot."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.text = self.path.read_text("utf-8")
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such prompt file; a recipe needs one per name") from None
        for match in Template.pattern.finditer(self.text):
            if match["invalid"] is not None:
                raise UserError(f"{self.path}:{self._line(match.start())}: a lone '$'; write $$ for a dollar sign")
        self.slots = {m["named"] or m["braced"] for m in Template.pattern.finditer(self.text)} - {None}

    def _line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1

    def render(self, **values: str) -> str:
        """The text with every slot filled; an unknown slot is refused with its line and the known names."""
        for match in Template.pattern.finditer(self.text):
            name = match["named"] or match["braced"]
            if name is not None and name not in values:
                near = difflib.get_close_matches(name, values, 1)
                hint = f"did you mean ${near[0]}?" if near else f"known: {', '.join(sorted(values))}"
                raise UserError(f"{self.path}:{self._line(match.start())}: unknown slot ${name}; {hint}")
        return Template(self.text).substitute(values)

    def messages(self, **values: str) -> list[dict[str, str]]:
        """Chat messages: the parts under `# System` and `# User`, or the whole text as one user message."""
        # Split before filling: a product sheet that holds the line '# User' must not open a message.
        pieces = _HEADING.split(self.text)
        if len(pieces) == 1:
            return [{"role": "user", "content": self.render(**values).strip()}]
        self.render(**values)  # refuses an unknown slot with its true line number
        filled = [Template(piece).substitute(values).strip() for piece in pieces]
        return [{"role": r.lower(), "content": c} for r, c in zip(filled[1::2], filled[2::2], strict=True) if c]


def folder(path: str | Path) -> dict[str, Prompt]:
    """All prompts of a folder by file stem, in name order."""
    found = {p.stem: Prompt(p) for p in sorted(Path(path).glob("*.md"))}
    if not found:
        raise UserError(f"{path}: holds no .md prompt; a recipe needs one folder a stage")
    return found


def _words(value: Any) -> str:
    if isinstance(value, dict):
        # Records are stored with sorted keys, so the order of a file says nothing: the name leads, whatever the rest.
        return " ".join(str(value[key]) for key in sorted(value, key=lambda key: (key != "name", key)))
    return "、".join(_words(v) for v in value) if isinstance(value, list) else str(value)


def slots(facts: dict[str, Any]) -> dict[str, str]:
    """Slot values of a sheet: lists joined by 、; a list of objects with a name also gives `<key>_names`."""
    filled = {key: _words(value) for key, value in facts.items()}
    for key, value in facts.items():
        if isinstance(value, list) and value and all(isinstance(v, dict) and "name" in v for v in value):
            filled[f"{key}_names"] = "、".join(str(v["name"]) for v in value)
    return filled
