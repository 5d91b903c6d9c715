"""columns: what a conversation asks, told apart from what cannot be asked, and every wrong turn with its place."""

from typing import Any

import pytest

from anneal.errors import UserError
from anneal.sources import tables
from anneal.sources.tables import Row


def conversation(*speakers: str) -> list[dict[str, str]]:
    return [{"from": speaker, "value": f" {speaker} {number}\n"} for number, speaker in enumerate(speakers)]


def facts_of(turns: Any, **more: Any) -> dict[str, str] | None:
    return tables.conversation_facts(Row("t.json: row 7", {"talk": turns, **more}), "talk")


def test_a_question_and_its_system_turn_become_facts() -> None:
    assert facts_of(conversation("human")) == {"instruction": "human 0", "system": ""}
    assert facts_of(conversation("system", "human")) == {"instruction": "human 1", "system": "system 0"}


@pytest.mark.parametrize(
    "speakers",
    [
        ("human", "gpt", "human"),
        ("system", "human", "gpt", "human"),
        ("human", "human"),
        ("human", "gpt"),
        ("system",),
        ("human", "system"),
        ("system", "system", "human"),
    ],
)
def test_a_question_with_a_history_and_a_talk_without_one_are_no_prompt(speakers: tuple[str, ...]) -> None:
    assert facts_of(conversation(*speakers)) is None


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ("a talk", "talk: 'a talk': expected a list of turns; name another in generate.fields.turns"),
        (["a turn"], "talk.0: 'a turn': expected a turn with 'from' and 'value', both text"),
        ([{"role": "user", "content": "x"}], "talk.0: \"{'role': 'user', 'content': 'x'}\": expected a turn"),
        ([{"from": "human", "value": 7}], "talk.0: \"{'from': 'human', 'value': 7}\": expected a turn with"),
        (conversation("human", "tool"), "talk.1.from: 'tool': unknown speaker; known: system, human, gpt"),
        ([{"from": "human", "value": " "}], "talk.0.value: ' ' is empty; fill it or take the row out"),
        ([], "talk: [] is empty; fill it (generate.fields.turns) or take the row out"),
    ],
)
def test_a_wrong_turn_is_told_with_its_place(turns: Any, told: str) -> None:
    with pytest.raises(UserError) as error:
        facts_of(turns)
    assert str(error.value).startswith(f"t.json: row 7: {told}")
    assert "\n" not in str(error.value)


def test_a_column_named_as_a_turn_is_told_unless_it_is_empty() -> None:
    assert facts_of(conversation("human"), system="", instruction=None) == {"instruction": "human 0", "system": ""}
    with pytest.raises(UserError, match=r"\At\.json: row 7: system: a column of this name beside talk, which gives it"):
        facts_of(conversation("human"), system="你答。")


def test_the_columns_that_paths_lead_into_are_no_facts() -> None:
    fields = tables.Fields(id=None, type="kind", text="chosen.value", rejected="worse.-1.value", turns="talk")
    assert fields.taken == {"kind", "chosen", "chosen.value", "worse", "worse.-1.value", "talk"}
