"""Ways to decode laid side by side: each names what it changes of the main one, and the seeds it draws with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from anneal.decoding.generate import Decode


class Preset(Decode):
    """A whole Decode; the params file writes down only what differs from the main one."""

    seeds: list[int]  # one run over all items for each; none for a search that draws nothing

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
        """The seeds of its runs; None for the only run of greedy and beam search."""
        return [*self.seeds] or [None]


def merged(section: Any) -> Any:
    """A raw section with `decode` and `presets`, each preset filled up from `decode`.

    Filled up before it is validated, so that an error names the key of the preset and the value that stands there.
    """
    if not isinstance(section, Mapping):
        return section
    base, presets = section.get("decode"), section.get("presets")
    if not (isinstance(base, Mapping) and isinstance(presets, Mapping)):
        return section
    full = {k: {**base, "seeds": [], **v} if isinstance(v, Mapping) else v for k, v in presets.items()}
    return {**section, "presets": full}
