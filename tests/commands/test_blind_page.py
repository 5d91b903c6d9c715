"""The page of the blind ballot in a real browser: from a file without a network, and from its own server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anneal.human import ballot, vote_records, vote_server
from anneal.human.vote_records import Vote
from tests import browsing
from tests.browsing import Watched

if not browsing.MISSING:
    from playwright.sync_api import Browser, Page, expect
pytestmark = browsing.NEEDED

NASTY = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> ${x} </script>"
N = 6


def built(kind: str = "pairs", n: int = N, question: str = "") -> ballot.Ballot:
    records = [
        {
            "id": f"p{i}/note/0",
            "item": f"p{i}",
            "type": "note",
            "prompt": [{"role": "user", "content": f"Ask {i} {NASTY}"}],
        }
        for i in range(n)
    ]
    texts = {
        "tuned": {r["id"]: f"One {r['item']} {NASTY}" for r in records},
        "base": {r["id"]: f"Two {r['item']} <b>bold</b>\nand a second line" for r in records},
    }
    if kind == "pairs":
        return ballot.pairs_ballot(records, texts, [("tuned", "base")], n, 1, question, 0, 0)
    levels = {"note": {dim: [f"{dim} is {i} <i>" for i in range(1, 6)] for dim in ("facts", "form")}}
    return ballot.label_ballot(records, texts, ["tuned", "base"], n, 1, question, 0, levels)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.launched() as found:
        yield found


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Browser contexts that must end without an error and without an unexpected request."""
    with browsing.watching(browser, lambda url: url.startswith(("file://", "http://127.0.0.1:", "blob:"))) as fresh:
        yield fresh


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "index.html"
    path.write_text(ballot.page(built()), "utf-8")
    return path.as_uri()


def enter(page: Page, name: str = "Anna") -> None:
    page.keyboard.type(name)  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("#count")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def count(page: Page) -> str:
    return page.inner_text("#count")


def exported(page: Page, tmp_path: Path) -> list[Vote]:
    with page.expect_download() as waiting:
        page.click("#export")
    assert waiting.value.suggested_filename == "Anna.jsonl"
    waiting.value.save_as(tmp_path / "out.jsonl")
    return vote_records.parse((tmp_path / "out.jsonl").read_bytes())


def test_a_ballot_is_answered_by_keyboard_from_a_file_without_a_network(
    file: str, watch: Callable[..., Watched], tmp_path: Path
) -> None:
    found = watch(offline=True)
    page = found.open(file)
    enter(page)
    assert count(page) == f"0 of {N}"
    press(page, "ArrowLeft", "1", "3", "ArrowRight", "ArrowDown", "s", "4", "4", "ArrowLeft", "ArrowRight")
    expect(page.locator("#done")).to_be_visible()
    votes = exported(page, tmp_path)
    assert [v.choice for v in votes] == ["left", "right", "tie", "skip", "left", "right"]
    assert [v.reasons for v in votes] == [[], ["facts", "language"], [], [], [], []]
    key = built()
    assert [v.id for v in votes] == [entry["id"] for entry in key.key["entries"]]
    assert {(v.sheet, v.rater) for v in votes} == {(key.id, "Anna")}
    assert found.asked == [file], "no request but that for the page"
    # Skipped entries can be answered later.
    page.click("#again")
    assert count(page) == f"{N - 1} of {N}"
    press(page, "ArrowLeft")
    assert exported(page, tmp_path)[-1].choice == "left"


def test_texts_are_shown_without_markup_and_both_sides_in_one_style(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    enter(page)
    expected = built().shown["shown"][0]
    assert page.locator(".text pre").all_inner_texts() == expected["texts"]
    assert page.inner_text("details pre") == expected["prompt"]
    assert page.locator("img, b, main script").count() == 0
    assert "owned" not in page.title()
    looks = "e => [e.className, e.querySelector('pre').className, getComputedStyle(e).font, getComputedStyle(e).width]"
    left, right = (page.locator(".text").nth(i).evaluate(looks) for i in (0, 1))
    assert left == right
    assert not re.search("tuned|base|golden", page.content().replace("base-uri", ""))


def test_buttons_cast_the_same_votes_as_keys(file: str, watch: Callable[..., Watched], tmp_path: Path) -> None:
    page = watch().open(file)
    enter(page)
    page.click("#why-form")
    assert page.get_attribute("#why-form", "aria-pressed") == "true"
    for name in ("left", "tie", "right", "skip"):
        page.click(f"#{name}")
    page.click("#undo")
    votes = exported(page, tmp_path)
    assert [(v.choice, v.reasons) for v in votes] == [("left", ["form"]), ("tie", []), ("right", [])]


def test_undo_restores_the_last_pair_with_its_reasons(file: str, watch: Callable[..., Watched], tmp_path: Path) -> None:
    page = watch().open(file)
    enter(page)
    first = page.inner_text(".texts")
    press(page, "2", "ArrowLeft")
    assert page.inner_text(".texts") != first
    press(page, "z")
    assert (page.inner_text(".texts"), count(page)) == (first, f"0 of {N}")
    assert page.get_attribute("#why-form", "aria-pressed") == "true"
    press(page, "z", "ArrowRight")
    assert [(v.choice, v.reasons) for v in exported(page, tmp_path)] == [("right", ["form"])]
    press(page, *["ArrowDown"] * (N - 1), "z")
    assert count(page) == f"{N - 1} of {N}", "also from the last page"


def test_a_repeating_key_and_a_browser_shortcut_cast_no_vote(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    enter(page)
    page.keyboard.down("ArrowLeft")
    page.keyboard.down("ArrowLeft")  # the second one repeats
    page.keyboard.down("ArrowLeft")
    page.keyboard.up("ArrowLeft")
    assert count(page) == f"1 of {N}"
    press(page, "Alt+ArrowDown", "Control+z", "Control+1", "q", "5", "?")
    expect(page.locator("dialog")).to_be_visible()
    press(page, "ArrowLeft", "z", "s")
    assert count(page) == f"1 of {N}", "the open dialog receives the keys"
    press(page, "?")
    expect(page.locator("dialog")).to_have_count(0)
    press(page, "ArrowLeft")
    assert count(page) == f"2 of {N}"


def test_a_reload_continues_at_the_same_pair(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    enter(page)
    press(page, "ArrowLeft", "ArrowDown")
    before = page.inner_text(".texts")
    page.reload()
    page.get_by_role("button", name=f"Continue as Anna (2 of {N})").click()
    assert (count(page), page.inner_text(".texts")) == (f"2 of {N}", before)


def test_raters_do_not_see_each_other(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    for name in ("../x", "", " ", "a/b"):
        page.fill("#name", name)
        page.click("#start")
        assert page.inner_text("[role=alert]") != ""
    page.fill("#name", "")
    enter(page)
    press(page, "ArrowLeft")
    page.click("#leave")
    enter(page, "李雷")
    assert (count(page), page.inner_text("#rater")) == (f"0 of {N}", "李雷")
    press(page, "ArrowRight", "ArrowRight")
    page.click("#leave")
    page.get_by_role("button", name=f"Continue as Anna (1 of {N})").click()
    assert count(page) == f"1 of {N}"
    page.click("#leave")
    page.get_by_role("button", name=f"Continue as 李雷 (2 of {N})").click()
    assert count(page) == f"2 of {N}"


def test_exported_votes_are_imported_in_another_browser(
    file: str, watch: Callable[..., Watched], tmp_path: Path
) -> None:
    page = watch().open(file)
    enter(page)
    press(page, "ArrowLeft", "1", "ArrowRight", "s")
    votes = exported(page, tmp_path)
    bad = [
        votes[1].model_copy(update={"sheet": "cd" * 32, "choice": "left"}),
        votes[0].model_copy(update={"id": "0" * 12}),
    ]
    other = [vote.model_copy(update={"rater": "Bo"}) for vote in votes[:2]]
    path = tmp_path / "in.jsonl"
    path.write_bytes(vote_records.encode([*bad, *votes, *other]) + b'{"half": \n[1]\nnull\n')
    again = watch().open(file)
    enter(again)
    press(again, "ArrowDown")
    for kept, passed in ((4, 6), (0, 10)):
        with again.expect_file_chooser() as waiting:
            again.click("#import")
        waiting.value.set_files(path)
        expect(again.locator(".status")).to_have_text(f"{kept} votes imported, {passed} lines ignored")
    found = exported(again, tmp_path)
    assert [v.choice for v in found] == ["tie", "right", "skip"], "votes of this browser take precedence"
    again.click("#leave")
    again.get_by_role("button", name=f"Continue as Bo (2 of {N})").click()
    assert count(again) == f"2 of {N}"


def test_the_page_has_two_languages_and_stores_the_choice(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    assert "Which text is better?" in page.inner_text("h1")
    page.click("#tongue")
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert "哪一篇更好" in page.inner_text("h1")
    enter(page)
    press(page, "2")
    page.click("#tongue")
    assert page.get_attribute("#why-form", "aria-pressed") == "true", "switching the language keeps the reasons"
    assert "A is better" in page.inner_text("#left")
    page.reload()
    assert page.get_attribute("html", "lang") == "en"
    assert "哪一篇更好" in watch(locale="zh-CN").open(file).inner_text("h1")


def test_a_custom_question_replaces_the_default(watch: Callable[..., Watched], tmp_path: Path) -> None:
    path = tmp_path / "own.html"
    path.write_text(ballot.page(built(question=f"Which is closer? {NASTY}")), "utf-8")
    page = watch().open(path.as_uri())
    assert page.inner_text("h1") == f"Which is closer? {NASTY}"
    enter(page)
    assert page.inner_text("h1") == f"Which is closer? {NASTY}"


def test_labels_are_given_by_keyboard(watch: Callable[..., Watched], tmp_path: Path) -> None:
    key = built("label", 3)
    path = tmp_path / "label.html"
    path.write_text(ballot.page(key), "utf-8")
    page = watch(offline=True).open(path.as_uri())
    enter(page)
    assert page.inner_text(".dim") == "facts"
    assert page.inner_text("#score2").endswith("facts is 2 <i>")
    press(page, "ArrowLeft", "6", "0", "2")
    assert (page.inner_text(".dim"), count(page)) == ("form", "1 of 6")
    press(page, "5", "1", "z", "3", "4", "s")
    page.click("#score1")
    expect(page.locator("#done")).to_be_visible()
    assert [v.choice for v in exported(page, tmp_path)] == ["2", "5", "3", "4", "skip", "1"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_screen(watch: Callable[..., Watched], tmp_path: Path, width: int, scheme: Any) -> None:
    for kind in ("pairs", "label"):
        path = tmp_path / f"{kind}.html"
        path.write_text(ballot.page(built(kind)), "utf-8")
        page = watch(viewport={"width": width, "height": 800}, color_scheme=scheme).open(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        enter(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # The buttons are visible without scrolling, and large enough for a finger.
        for name in ("#left", "#tie", "#right") if kind == "pairs" else ("#score1", "#score5"):
            box = page.locator(name).bounding_box()
            assert box
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= 800
            assert box["height"] >= 30
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")


def test_a_browser_without_storage_shows_a_warning(file: str, watch: Callable[..., Watched], tmp_path: Path) -> None:
    found = watch()
    found.context.add_init_script("Storage.prototype.setItem = () => { throw new Error('full') }")
    page = found.open(file)
    enter(page)
    press(page, "ArrowLeft")
    assert "does not store your votes" in page.inner_text(".status")
    assert [v.choice for v in exported(page, tmp_path)] == ["left"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[vote_server.Server]:
    key = built()
    with vote_server.Server({"": vote_server.Page(ballot.page(key).encode(), key.id)}, tmp_path / "human", 0) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def standing(server: vote_server.Server) -> list[tuple[str, str]]:
    return [(vote.rater, vote.choice) for vote in vote_records.current(vote_records.read(server.folder))]


def test_served_votes_reach_the_disk_and_another_browser(
    server: vote_server.Server, watch: Callable[..., Watched]
) -> None:
    found = watch()
    page = found.open(server.url)
    enter(page)
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        press(page, "1", "ArrowLeft")
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        press(page, "ArrowRight")
    assert standing(server) == [("Anna", "left"), ("Anna", "right")]
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        press(page, "z")
    assert standing(server) == [("Anna", "left")]
    # Another browser has these votes from the server only.
    other = watch().open(server.url)
    enter(other)
    assert count(other) == f"1 of {N}"
    # The first browser, whose copy is now outdated, does not restore the old vote.
    for key in ("z", "ArrowRight"):
        with other.expect_response(lambda answer: answer.request.method == "POST"):
            press(other, key)
    page.reload()
    page.get_by_role("button", name=f"Continue as Anna (1 of {N})").click()
    assert count(page) == f"1 of {N}"
    kept = json.loads(page.evaluate("Object.values(localStorage).find((value) => value.includes('votes'))"))
    assert ([vote["choice"] for vote in kept["votes"]], kept["unsent"]) == (["right"], [])
    assert standing(server) == [("Anna", "right")]
    assert {url.split("/")[2] for url in found.asked} == {f"127.0.0.1:{server.server_port}"}


def test_a_refused_vote_is_sent_again(server: vote_server.Server, watch: Callable[..., Watched]) -> None:
    found = watch()
    page = found.open(server.url)
    enter(page)
    token, server.token = server.token, "elsewhere"
    with page.expect_response(lambda answer: answer.status == 404):
        press(page, "ArrowLeft")
    expect(page.locator(".status")).to_contain_text("1 votes are not saved on the server yet")
    assert not server.folder.exists()
    server.token = token
    with page.expect_response(lambda answer: answer.ok):
        pass  # by itself, after a while
    with page.expect_response(lambda answer: answer.ok):
        press(page, "ArrowDown")
    expect(page.locator(".status")).to_have_text("")
    assert standing(server) == [("Anna", "left"), ("Anna", "tie")]
    assert len(found.wrong) == 1, "the browser itself reports the refused request"
    found.wrong.clear()


def test_unsent_votes_survive_a_change_of_rater(server: vote_server.Server, watch: Callable[..., Watched]) -> None:
    found = watch()
    page = found.open(server.url)
    enter(page)
    token, server.token = server.token, "elsewhere"
    with page.expect_response(lambda answer: answer.status == 404):
        press(page, "ArrowLeft")
    page.click("#leave")
    server.token = token
    enter(page, "Bo")
    with page.expect_response(lambda answer: answer.ok):
        press(page, "ArrowRight")
    assert standing(server) == [("Bo", "right")]
    page.click("#leave")
    assert page.locator(".known button").count() == 2
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        page.get_by_role("button", name=f"Continue as Anna (1 of {N})").click()
    assert standing(server) == [("Anna", "left"), ("Bo", "right")]
    found.wrong.clear()


def test_votes_that_the_server_lost_are_sent_again(server: vote_server.Server, watch: Callable[..., Watched]) -> None:
    page = watch().open(server.url)
    enter(page)
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        press(page, "ArrowLeft")
    (server.folder / "Anna.jsonl").unlink()
    page.reload()
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        page.get_by_role("button", name=f"Continue as Anna (1 of {N})").click()
    assert standing(server) == [("Anna", "left")]
    raw = (server.folder / "Anna.jsonl").read_text("utf-8")
    assert set(json.loads(raw)) == {"sheet", "rater", "id", "choice", "reasons", "ms"}
