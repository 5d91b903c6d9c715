"""stubs: judges that are bad in a known way, in the form of true verdicts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anneal.judging import rubric
from anneal.llm import offline_server
from anneal.offline import stub_judges
from tests import goldens
from tests.conftest import ROOT

SHEET = rubric.folder(ROOT / "prompts/brand/judge", goldens.RULES)["paid_ad_fab"]
DIMENSIONS = list(SHEET.header.dimensions)


def asked(text: str = "", pair: tuple[str, str] | None = None, seed: int = 0) -> dict[str, Any]:
    blocks = f"<first>\n{pair[0]}\n</first>\n<second>\n{pair[1]}\n</second>" if pair else f"<text>\n{text}\n</text>"
    head = json.dumps({"dimensions": DIMENSIONS, "gates": []})
    content = f"<checks>\n{head}\n</checks>\n{blocks}"
    return {"model": "m", "messages": [{"role": "user", "content": content}], "seed": seed}


def says(name: str, **what: Any) -> Any:
    return json.loads(stub_judges.JUDGES[f"offline-{name}-{offline_server.VERSION}"](asked(**what)).text)


def test_their_replies_are_verdicts() -> None:
    for name in ("first", "longest", "constant", "noisy"):
        verdict = SHEET.parse(json.dumps(says(name, text="some words")))
        assert {cell["quote"] for cell in verdict["dims"].values()} == {"some word"}


def test_first_constant_longest() -> None:
    assert says("first", pair=("a", "b"))["verdict"] == "A>B"
    assert says("constant", pair=("a", "bbb"))["verdict"] == "tie"
    assert [says("longest", pair=p)["verdict"] for p in (("aa", "b"), ("a", "bb"), ("a", "b"))] == ["A>B", "B>A", "tie"]
    marks = [says("longest", text="x" * n)["dims"][DIMENSIONS[0]]["score"] for n in (1, 100, 1000)]
    assert marks == [1, 3, 5]
    assert {says("constant", text="x" * n)["dims"][DIMENSIONS[-1]]["score"] for n in (1, 100)} == {3}


def test_noise_follows_the_request() -> None:
    seen = [says("noisy", text="a", seed=seed)["dims"][DIMENSIONS[0]]["score"] for seed in range(40)]
    assert set(seen) == {1, 2, 3, 4, 5}
    assert says("noisy", text="a", seed=7) == says("noisy", text="a", seed=7)
    assert len({says("noisy", pair=("a", "b"), seed=seed)["verdict"] for seed in range(40)}) == 5


def test_garbage_is_no_json() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        says("garbage", text="a")
