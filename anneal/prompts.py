"""Prompt files: plain Markdown with $slots, in which the headings `# System` and `# User` start the two messages."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from string import Template
from typing import Any

from anneal.errors import UserError

_HEADING = re.compile(r"^# (System|User)\s*$", re.M)


class Prompt:
    """One prompt file. Raises UserError for a missing file, a stray `$` or, on rendering, an unknown slot."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.text = self.path.read_text("utf-8")
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such prompt file; a recipe needs one per name") from None
        for match in Template.pattern.finditer(self.text):
            if match["invalid"] is not None:
                raise UserError(f"{self.path}:{self._line(match.start())}: a lone '$'; write $$ for a dollar sign")
        names = (match["named"] or match["braced"] for match in Template.pattern.finditer(self.text))
        self.slots = {name for name in names if name is not None}  # an escaped $$ has no name

    def _line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1

    def render(self, **values: str) -> str:
        """The text with every slot filled. UserError with the line of an unknown slot and the known names."""
        for match in Template.pattern.finditer(self.text):
            name = match["named"] or match["braced"]
            if name is not None and name not in values:
                matches = difflib.get_close_matches(name, values, 1)
                hint = f"did you mean ${matches[0]}?" if matches else f"known: {', '.join(sorted(values))}"
                raise UserError(f"{self.path}:{self._line(match.start())}: unknown slot ${name}; {hint}")
        return Template(self.text).substitute(values)

    def messages(self, **values: str) -> list[dict[str, str]]:
        """Chat messages: the parts under `# System` and `# User`, or the whole text as one user message."""
        # Split before filling: a product sheet with the line '# User' must not start a message.
        pieces = _HEADING.split(self.text)
        if len(pieces) == 1:
            return [{"role": "user", "content": self.render(**values).strip()}]
        self.render(**values)  # of the whole text, so that an unknown slot is reported with its true line
        filled = [Template(piece).substitute(values).strip() for piece in pieces]
        messages: list[dict[str, str]] = []
        for role, content in zip(filled[1::2], filled[2::2], strict=True):
            if content:
                messages.append({"role": role.lower(), "content": content})
        return messages


def folder(path: str | Path) -> dict[str, Prompt]:
    """All prompts of a folder by file stem, in name order. UserError where there is none."""
    prompts = {file.stem: Prompt(file) for file in sorted(Path(path).glob("*.md"))}
    if not prompts:
        raise UserError(f"{path}: holds no .md prompt; a recipe needs one folder a stage")
    return prompts


def _text(value: Any) -> str:
    """A fact as text: a list joined by 、, an object as its values in the order of its keys, the name first."""
    if isinstance(value, dict):
        # Records are stored with sorted keys, so that the order of the source file is lost: sort here too.
        return " ".join(str(value[key]) for key in sorted(value, key=lambda key: (key != "name", key)))
    return "、".join(_text(element) for element in value) if isinstance(value, list) else str(value)


def slots(facts: dict[str, Any]) -> dict[str, str]:
    """Slot values of a fact sheet, by key; a list of objects with a name also gives `<key>_names`."""
    values = {key: _text(value) for key, value in facts.items()}
    for key, value in facts.items():
        if not isinstance(value, list) or not value:
            continue
        if all(isinstance(element, dict) and "name" in element for element in value):
            values[f"{key}_names"] = "、".join(str(element["name"]) for element in value)
    return values
