"""The endpoint from the environment, and the outcome of a request."""

import datetime
import email.utils
import time
from pathlib import Path

import pytest

from anneal.errors import UserError
from anneal.llm import endpoint, offline_server
from anneal.offline import pair_judge


def respond(_body: dict[str, object]) -> offline_server.Reply:
    return offline_server.Reply("好")


def resolve(model: str = "real", material: Path | None = None) -> endpoint.Endpoint:
    return endpoint.resolve("teacher", model, respond, material)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_URL", "API_KEY", "CONCURRENCY", "TIMEOUT", "MAX_REQUESTS", "PRICE_IN", "PRICE_OUT"):
        for role in ("TEACHER", "JUDGE", "OPENAI"):
            monkeypatch.delenv(f"{role}_{name}", raising=False)


def test_the_role_comes_first_and_openai_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve().url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://shared/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "shared")
    assert (resolve().identity, resolve().key) == ("https://shared/v1", "shared")
    monkeypatch.setenv("TEACHER_BASE_URL", "https://mine/v1")
    monkeypatch.setenv("TEACHER_API_KEY", "mine")
    assert (resolve().identity, resolve().key) == ("https://mine/v1", "mine")
    assert endpoint.resolve("judge", "real", respond, None).key == "shared"


def test_a_missing_key_is_one_clear_line() -> None:
    with (
        pytest.raises(UserError, match=r"^TEACHER_API_KEY: not set, nor OPENAI_API_KEY; put it in \.env"),
        endpoint.opened(resolve(), respond),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TEACHER_CONCURRENCY", "0"),
        ("TEACHER_CONCURRENCY", "many"),
        ("TEACHER_CONCURRENCY", "5000"),
        ("TEACHER_TIMEOUT", "-1"),
        ("TEACHER_TIMEOUT", "nan"),
        ("TEACHER_MAX_REQUESTS", "-5"),
        ("TEACHER_PRICE_IN", "free"),
    ],
)
def test_a_wrong_number_names_its_variable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name}={value}: a number from "):
        resolve()


def test_the_identity_of_the_offline_provider_is_its_persona_and_phrases(tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    bank.mkdir()
    (bank / "a.json").write_text("{}")
    first = resolve("offline-1", bank).identity
    assert first == resolve("offline-1", bank).identity
    assert first != resolve("offline-1").identity
    (bank / "a.json").write_text('{"more": 1}')
    assert first != resolve("offline-1", bank).identity
    assert first.startswith("offline/")
    # The port is new in each run and must not be part of it.
    with endpoint.opened(resolve("offline-1"), respond) as one, endpoint.opened(resolve("offline-1"), respond) as two:
        assert one.url != two.url
        assert one.identity == two.identity


def test_retry_after_in_all_its_forms() -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    assert endpoint.retry_after({"retry-after": "2"}) == 2
    assert endpoint.retry_after({"retry-after": "0.5"}) == 0.5
    assert endpoint.retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    waits = endpoint.retry_after({"retry-after": email.utils.format_datetime(soon, usegmt=True)})
    assert waits is not None
    assert 25 < waits <= 30
    past = email.utils.formatdate(time.time() - 100, usegmt=True)
    assert endpoint.retry_after({"retry-after": past}) == 0
    assert endpoint.retry_after({"retry-after": "-3"}) == 0
    for junk in ({}, {"retry-after": "soon"}, {"retry-after": "inf"}, {"retry-after": "nan"}, {"retry-after": ""}):
        assert endpoint.retry_after(junk) is None, junk


@pytest.mark.parametrize(
    ("status", "headers", "code", "move"),
    [
        (400, {}, None, "drop"),
        (401, {}, None, "stop"),
        (402, {}, None, "stop"),
        (403, {}, None, "stop"),
        (404, {}, None, "stop"),
        (408, {}, None, "again"),
        (413, {}, None, "drop"),
        (422, {}, None, "drop"),
        (429, {}, None, "wait"),
        (429, {"retry-after": "5"}, None, "wait"),
        (429, {"retry-after": "3600"}, None, "stop"),
        (429, {}, "insufficient_quota", "stop"),
        (500, {}, None, "again"),
        (503, {}, None, "again"),
        (503, {"retry-after": "1"}, None, "wait"),
        (529, {}, None, "again"),
    ],
)
def test_four_classes_of_errors(status: int, headers: dict[str, str], code: str | None, move: str) -> None:
    outcome = endpoint._status(status, "the provider's own words", code, headers, resolve())
    assert outcome.move == move
    assert outcome.reason.startswith(f"http {status}: the provider's own words")
    assert outcome.overloaded is (True if status == 429 else None)
    assert ("; " in outcome.reason) == (move == "stop"), "whoever must act is told how"


def test_another_version_of_the_rules_is_another_judge_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    from anneal.offline import rule_judge

    assert pair_judge.VERSION.endswith(f".{rule_judge.VERSION}")

    def identity() -> str:
        return endpoint.resolve("judge", "offline-rules-1", pair_judge.respond, None).identity

    before = identity()
    monkeypatch.setattr(pair_judge, "VERSION", "of another time")
    assert identity() != before
