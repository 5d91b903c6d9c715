"""The error type for everything that the user can correct."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can correct: one line with the place, the value and what to do. The stage exits with 1."""
