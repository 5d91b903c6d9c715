"""The systems whose texts are compared, expected best first: the references (`golden`) and three models.

`aligned` exists only after preference learning. Otherwise its files are empty, and every reader leaves it out.
"""

from __future__ import annotations

from collections.abc import Container

SYSTEMS = ("golden", "aligned", "tuned", "base")
MODELS = SYSTEMS[1:]


def present(names: Container[str]) -> tuple[str, ...]:
    """The systems among `names`, in order."""
    return tuple(system for system in SYSTEMS if system in names)
