"""The error of a user: one line that says where, what and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one line that says where, what and what to do. The stage exits with 1."""
