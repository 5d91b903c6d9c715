"""Decoding presets: each holds the settings that differ from the main ones, and the seeds that it samples with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from anneal.decoding.generate import Decode


class Preset(Decode):
    """Complete decoding settings; the params file holds only those that differ from the main ones."""

    seeds: list[int]  # one run over all records for each; empty for greedy and beam search

    @model_validator(mode="after")
    def _seeds(self) -> Preset:
        if self.do_sample and not self.seeds:
            raise ValueError("a preset that samples names its seeds")
        if self.seeds and not self.do_sample:
            raise ValueError("seeds without do_sample change nothing")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands twice in seeds")
        return self

    def runs(self) -> list[int | None]:
        """One seed per run; None for the single run of greedy and beam search."""
        return [*self.seeds] or [None]


def merged(section: Any) -> Any:
    """A raw section with `decode` and `presets`, in which `decode` completes each preset.

    It runs before the validation, so that an error names the key of the preset and the value there. Anything of another
    form is returned as it is and left to the validation.
    """
    if not isinstance(section, Mapping):
        return section
    base, presets = section.get("decode"), section.get("presets")
    if not (isinstance(base, Mapping) and isinstance(presets, Mapping)):
        return section
    complete = {
        name: {**base, "seeds": [], **changes} if isinstance(changes, Mapping) else changes
        for name, changes in presets.items()
    }
    return {**section, "presets": complete}
