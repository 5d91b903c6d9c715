"""Escalation: the first rung with a passing candidate answers, with the best of its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal.decoding import escalation
from anneal.decoding.escalation import Candidate, Rung
from anneal.records import Answer, Record


def record(name: str, kind: str = "k", prompt: str = "") -> Record:
    return {"id": name, "item": name[0], "type": kind, "prompt": [{"role": "user", "content": prompt or name}]}


def rung(name: str, texts: dict[str, list[tuple[str, int, float | None]]], temperature: float | None = 0.5) -> Rung:
    """A rung with fixed candidates; KeyError for another record."""
    return Rung(name, temperature, lambda rows: [[Candidate(*found) for found in texts[row["id"]]] for row in rows])


def odd(records: Sequence[Record], texts: Sequence[str]) -> list[list[str]]:
    """A text that starts with the id of its record passes."""
    pairs = zip(records, texts, strict=True)
    return [[] if words.startswith(of["id"]) else ["name: another", "length: 3"][: len(words)] for of, words in pairs]


def escalate(names: str, *rungs: Rung) -> tuple[list[Answer], list[str]]:
    lines: list[str] = []
    return escalation.escalate([record(name) for name in names], rungs, odd, lines.append), lines


def test_the_first_rung_that_has_a_passing_candidate_answers() -> None:
    first = rung("first", {"a": [("a1", 4, None)], "b": [("x", 3, None)], "c": [("yy", 3, None)]}, 0.0)
    # A rung is not asked for what is answered: "a" is not in it.
    second = rung("warm", {"b": [("b2", 5, -1.0), ("q", 5, -0.1), ("b3", 7, -0.5)], "c": [("z", 2, -2.0)]})
    third = rung("hot", {"c": [("z", 1, -1.0)]}, 0.9)
    (a, b, c), lines = escalate("abc", first, second, third)
    assert (a["text"], a["rung"], a["accepted"], a["n_attempts"], a["tokens"]) == ("a1", "first", True, 1, 4)
    assert (b["text"], b["rung"], b["accepted"], b["n_attempts"], b["tokens"]) == ("b3", "warm", True, 4, 20)
    assert (c["text"], c["rung"], c["accepted"], c["n_attempts"], c["tokens"]) == ("yy", "none", False, 3, 6)
    assert b["attempts"] == [
        {
            "rung": "first",
            "temperature": 0.0,
            "reasons": ["name: another"],
            "n_new": 3,
            "logprob": None,
            "finish": "stop",
        },
        {"rung": "warm", "temperature": 0.5, "reasons": [], "n_new": 5, "logprob": -1.0, "finish": "stop"},
        {
            "rung": "warm",
            "temperature": 0.5,
            "reasons": ["name: another"],
            "n_new": 5,
            "logprob": -0.1,
            "finish": "stop",
        },
        {"rung": "warm", "temperature": 0.5, "reasons": [], "n_new": 7, "logprob": -0.5, "finish": "stop"},
    ]
    assert set(a) == {"id", "item", "type", "text", "rung", "attempts", "n_attempts", "tokens", "accepted", "finish"}
    assert lines == [
        "first: 1 of 3 accepted, 2 open",
        "warm: 1 of 2 accepted, 1 open",
        "hot: 0 of 1 accepted, 1 open",
    ]


def test_nothing_is_drawn_once_all_are_answered() -> None:
    def broken(_: Sequence[Record]) -> list[list[Candidate]]:
        raise AssertionError("asked")

    first = rung("first", {name: [(name, 1, None)] for name in "abcd"})
    rows, lines = escalate("abcd", first, Rung("warm", 0.5, broken))
    assert [row["rung"] for row in rows] == ["first"] * 4
    assert len(lines) == 1
    assert escalate("", first) == ([], [])


def test_the_best_is_the_likeliest_per_token() -> None:
    long, short = Candidate("long", 40, -0.2), Candidate("short", 4, -0.5)
    assert long.n_new * -0.2 < short.n_new * -0.5, "its sum is the lower one"
    assert escalation.best([("r", short), ("r", long)]) == ("r", long)
    unknown = [(name, Candidate("same", 0, None)) for name in "xyz"]
    assert escalation.best(unknown) is unknown[0]
    assert escalation.best([unknown[1], ("r", short)]) == ("r", short)


@given(st.lists(st.lists(st.lists(st.tuples(st.booleans(), st.floats(-9, 0)), max_size=3), min_size=3, max_size=3)))
def test_any_rungs_against_a_search_record_by_record(plan: list[list[list[tuple[bool, float]]]]) -> None:
    """plan[record][rung] holds (passes, logprob) of each candidate."""
    records = [{"id": str(n), "item": "i", "type": "k"} for n in range(len(plan))]

    def draw(level: int) -> Any:
        def drawn(rows: Sequence[Record]) -> list[list[Candidate]]:
            cells = [plan[int(row["id"])][level] for row in rows]
            return [[Candidate(f"{passes}{level}{n}", 2, p) for n, (passes, p) in enumerate(cell)] for cell in cells]

        return drawn

    def check(_: Sequence[Record], texts: Sequence[str]) -> list[list[str]]:
        return [[] if words.startswith("True") else ["no: no"] for words in texts]

    rungs = [Rung(f"r{level}", 0.1, draw(level)) for level in range(3)]
    found = escalation.escalate(records, rungs, check, lambda _: None)
    assert len(found) == len(plan)
    for row, cells in zip(found, plan, strict=True):
        level = next((n for n, cell in enumerate(cells) if any(passes for passes, _ in cell)), None)
        tried = cells if level is None else cells[: level + 1]
        assert row["n_attempts"] == sum(map(len, tried)) == row["tokens"] / 2
        assert row["accepted"] == (level is not None) == (row["rung"] != "none")
        if level is not None:
            top = max(p for passes, p in cells[level] if passes)
            assert row["rung"] == f"r{level}"
            assert cells[level][int(row["text"][-1])] == (True, top)


def test_the_summary_counts_records_candidates_and_tokens() -> None:
    first = rung("first", {n: [(n if n in "abcdefg" else "no", 10, None)] for n in "abcdefghij"})
    warm = rung("warm", {"h": [("h", 8, -1.0), ("?", 8, -1.0)], "i": [("?", 6, -1.0)] * 2, "j": [("?!", 7, -1.0)] * 2})
    last = rung("nearest", {"i": [("i", 0, None)], "j": [("k", 0, None)]}, None)
    rows, _ = escalate("abcdefghij", first, warm, last)
    found = escalation.summary(rows, ["first", "warm", "nearest"])
    assert found["n"] == 10
    assert (found["accepted"]["mean"], found["accepted"]["n"], found["first"]["mean"]) == (0.9, 10, 0.7)
    assert found["accepted"]["low"] < 0.9 < found["accepted"]["high"]
    assert found["rungs"] == {
        "first": {"open": 10, "candidates": 10, "accepted": 7, "share": 0.7},
        "warm": {"open": 3, "candidates": 6, "accepted": 1, "share": 0.1},
        "nearest": {"open": 2, "candidates": 2, "accepted": 1, "share": 0.1},
    }
    assert found["none"] == {"n": 1, "share": pytest.approx(0.1)}
    assert found["attempts"] == {"p50": 1, "p95": 4}
    assert found["tokens"] == 10 * 10 + 16 + 12 + 14
    assert found["tokens_per_accepted"] == pytest.approx(142 / 9)
    # Two of "no", one of "?", two of "?", two of "?!" and one of "k"; texts of two letters fail two checks.
    assert found["rejections"] == {"length": 3 + 2, "name": 3 + 1 + 2 + 2 + 1}


def test_without_an_accepted_record_there_is_no_price() -> None:
    rows, _ = escalate("ab", rung("first", {"a": [("?", 1, None)], "b": [("?", 1, None)]}))
    found = escalation.summary(rows, ["first"])
    assert (found["accepted"]["mean"], found["tokens_per_accepted"], found["none"]["n"]) == (0.0, None, 2)


def test_neighbours_have_similar_prompts_and_the_same_type_first() -> None:
    def taught(name: str, kind: str, prompt: str) -> Record:
        return {**record(name, kind, prompt), "completion": [{"role": "assistant", "content": f"text of {name}"}]}

    train = [
        taught("far", "k", "a wholly different matter"),
        taught("near", "k", "a blue chair for the small room"),
        taught("same", "other", "a blue chair for the small kitchen"),
        taught("close", "k", "a blue chair"),
    ]
    found = escalation.neighbours(train, 3)
    assert (found.name, found.temperature) == ("nearest", None)
    ((*texts,), others) = found.draw(
        [record("q", "k", "a blue chair for the small kitchen"), record("r", "other", "none of it")]
    )
    assert [candidate.text for candidate in texts] == ["text of near", "text of close", "text of far"]
    assert {(candidate.n_new, candidate.logprob) for candidate in texts} == {(0, None)}
    assert others[0].text == "text of same"
    assert len(others) == 3


def test_an_answer_that_was_cut_off_is_drawn_again() -> None:
    cut, whole = Candidate("cut", 9, None, "length"), Candidate("whole", 5, -0.5)
    rungs = [
        Rung("first", 0.0, lambda rows: [[cut] for _ in rows]),
        Rung("warm", 0.5, lambda rows: [[whole] for _ in rows]),
    ]
    records = [{"id": "a", "item": "a", "type": "t"}]

    def check(_records: Any, texts: Any) -> list[list[str]]:
        return [[] for _ in texts]

    (row,) = escalation.escalate(records, rungs, check, lambda _: None)
    assert (row["text"], row["rung"], row["finish"]) == ("whole", "warm", "stop")
    assert row["attempts"][0]["reasons"] == ["stopped: cut off"]
    (row,) = escalation.escalate(records, rungs[:1], check, lambda _: None)
    assert (row["text"], row["accepted"], row["finish"]) == ("cut", False, "length")
    (row,) = escalation.escalate(records, rungs, check, lambda _: None, finished=False)
    assert (row["text"], row["rung"], row["finish"]) == ("cut", "first", "length")


def worth(asked: list[list[str]]) -> escalation.Reward:
    """A reward that is the number at the end of a text; it appends the texts of each call to `asked`."""

    def reward(_: Sequence[Record], texts: Sequence[str]) -> list[float]:
        asked.append(list(texts))
        return [float(words[1:]) for words in texts]

    return reward


def test_ranked_by_reward_the_best_of_the_first_rungs_answers_every_record() -> None:
    first = rung("first", {"a": [("a1", 4, None)], "b": [("b9", 4, None)], "c": [("x9", 4, None)]}, 0.0)
    warm = rung("warm", {"a": [("a2", 3, -9.0), ("a1", 3, -0.1), ("x7", 3, -0.1)], "b": [("b8", 3, -0.1)], "c": []})
    hot = rung("hot", {"c": [("c3", 2, -0.1), ("c5", 2, -0.9)]}, 0.9)
    asked: list[list[str]] = []
    lines: list[str] = []
    records = [record(name) for name in "abc"]
    rows = escalation.escalate(records, [first, warm, hot], odd, lines.append, reward=worth(asked), together=2)
    assert [(row["text"], row["rung"], row["n_attempts"]) for row in rows] == [
        ("a2", "warm", 4),
        ("b9", "first", 2),
        ("c5", "hot", 3),
    ]
    # Only what passes is asked for, and of a record that has its answer no more is drawn.
    assert asked == [["a1", "b9"], ["a2", "a1", "b8"], ["c3", "c5"]]
    assert [attempt.get("reward") for attempt in rows[0]["attempts"]] == [1.0, 2.0, 1.0, None]
    assert "reward" not in rows[0]["attempts"][3]
    assert lines == ["first: 2 of 3 accepted, 1 open", "warm: 2 of 3 accepted, 1 open", "hot: 1 of 1 accepted, 0 open"]
    found = escalation.summary(rows, ["first", "warm", "hot"])
    assert [found["rungs"][name]["accepted"] for name in ("first", "warm", "hot")] == [1, 1, 1]
    assert [found["rungs"][name]["open"] for name in ("first", "warm", "hot")] == [3, 2, 1]
    assert found["accepted"]["mean"] == 1.0


def test_of_equal_rewards_the_earlier_answer_stands_whatever_its_log_probability() -> None:
    first = rung("first", {"a": [("a3", 4, None)]}, 0.0)
    warm = rung("warm", {"a": [("a3", 3, -0.1), ("a3.0000001", 3, -0.1)]})
    (row,) = escalation.escalate([record("a")], [first, warm], odd, lambda _: None, reward=worth([]), together=2)
    assert (row["text"], row["rung"]) == ("a3", "first")


def test_without_a_passing_candidate_no_reward_is_computed() -> None:
    asked: list[list[str]] = []
    rungs = [rung("first", {"a": [("x", 4, None)]}), rung("warm", {"a": [("y", 4, None)]})]
    (row,) = escalation.escalate([record("a")], rungs, odd, lambda _: None, reward=worth(asked), together=2)
    assert (asked, row["text"], row["accepted"]) == ([], "x", False)


def test_the_finish_is_that_of_the_answer() -> None:
    cut = Rung("warm", 0.5, lambda rows: [[Candidate("a2", 9, -0.1, "length")] for _ in rows])
    rungs, asked = [rung("first", {"a": [("a1", 4, None)]}), cut], worth([])
    (row,) = escalation.escalate([record("a")], rungs, odd, lambda _: None, finished=False, reward=asked, together=2)
    assert (row["text"], row["rung"], row["finish"]) == ("a2", "warm", "length")
    (row,) = escalation.escalate([record("a")], rungs, odd, lambda _: None, reward=asked, together=2)
    assert (row["text"], row["rung"], row["finish"]) == ("a1", "first", "stop")
