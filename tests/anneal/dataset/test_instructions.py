"""Wordings: as many rows to each, by type as well, and few that move when a record comes or goes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.dataset.instructions import balanced


def records(numbers: list[int], kinds: int) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "type": f"kind{n % kinds}"} for n in numbers]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 500), min_size=1, max_size=120), st.integers(1, 9), st.integers(1, 4))
def test_each_is_drawn_equally_often_and_a_new_record_moves_few(numbers: set[int], ways: int, kinds: int) -> None:
    rows = records(sorted(numbers), kinds)
    drawn = balanced(rows, ways, "42/wording")
    used = Counter(drawn.values())
    counts = [used[way] for way in range(ways)]
    assert set(drawn) == {row["id"] for row in rows}
    assert max(counts) - min(counts) <= 1
    assert balanced(rows[::-1], ways, "42/wording") == drawn, "the order of the file says nothing"
    more = balanced([*rows, *records([999], kinds)], ways, "42/wording")
    assert sum(more[name] != way for name, way in drawn.items()) <= 2 * (ways - 1)


def test_within_each_type_too_and_by_purpose() -> None:
    rows = records(list(range(900)), 3)
    drawn = balanced(rows, 5, "42/wording")
    of = Counter((row["type"], drawn[row["id"]]) for row in rows)
    assert len(of) == 15
    assert set(of.values()) <= {59, 60, 61}
    other = balanced(rows, 5, "7/wording")
    assert 600 < sum(other[name] != way for name, way in drawn.items()) < 800
