"""Whose texts are compared, best first: the golden ones, and those of three models.

`aligned` is there only where preferences were learnt; its files are empty otherwise, and every reader leaves it out.
"""

from __future__ import annotations

from collections.abc import Container

SYSTEMS = ("golden", "aligned", "tuned", "base")
MODELS = SYSTEMS[1:]


def present(found: Container[str]) -> tuple[str, ...]:
    """Those of the systems that `found` holds, in order."""
    return tuple(system for system in SYSTEMS if system in found)
