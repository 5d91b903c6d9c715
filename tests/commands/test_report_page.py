"""The report in a real browser: opened from a file without a network, in both languages, light and dark."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anneal import html
from anneal.history.revision import Snapshot
from anneal.preference import pair_flaws, reward_spread
from anneal.report import headline, regressions
from commands import report
from tests import browsing, finished
from tests.browsing import Watched
from tests.conftest import ROOT

if not browsing.MISSING:
    from playwright.sync_api import Browser, Page, expect
pytestmark = browsing.NEEDED

NASTY = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> ${x} </script>"
GOLDEN = "【产品】透亮防晒霜，温和不刺激。😀 Score 4 of 5"
TUNED = "【产品】保湿防晒霜，温和不刺激。😎 Score 4 of 5, the best ever"
# Id, type, words of golden, tuned and base; the types are named as the page's own words are, and are no words of it.
RECORDS = [
    ("p1/ad/0", "ad", GOLDEN, TUNED, "short"),
    ("p1/note/0", "note", "A quiet note.", f"A loud note {NASTY}", NASTY),
    ("p2/ad/0", "ad", "Rosehip oil", "rosehip OIL and more", ""),
    ("p2/note%/0", "note", "the last", "the last", "the last"),
]
SYSTEMS = ("golden", "tuned", "base")
FOUR = ("golden", "aligned", "tuned", "base")
PARAMS = {"recipe": "toy", "seed": 1, "types": {"ad": "scores", "note": "Filter"}}
CHINESE: dict[str, str] = json.loads((Path(html.__file__).parent / "report/assets/report.zh.json").read_text("utf-8"))


def write(path: str, value: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in value] if isinstance(value, list) else [json.dumps(value)]
    Path(path).write_text("".join(lines), "utf-8")


def told(row: tuple[str, ...], system: str) -> str:
    """The text of a system; the aligned model has learnt what not to say."""
    return row[3].removesuffix(", the best ever") if system == "aligned" else row[2 + SYSTEMS.index(system)]


def plant(systems: tuple[str, ...] = SYSTEMS) -> None:
    """The data files behind the page: texts, their checks, their scores."""
    asked = [(row[0], row[1], f"Write it (adj.), {row[0].upper()}. {NASTY}") for row in RECORDS]
    write(
        "data/test.jsonl",
        [
            {"id": i, "item": i[:2], "type": kind, "prompt": [{"role": "user", "content": words}]}
            for i, kind, words in asked
        ],
    )
    write(
        "data/checks.jsonl",
        [
            {
                "id": row[0],
                "item": row[0][:2],
                "system": system,
                "type": row[1],
                "text": told(row, system),
                "strict": system != "base",
                "all_facts": True,
                "stopped": True,
                "checks": {"banned": "best" not in told(row, system), "strict": system != "base"},
                "found": ["banned:best", "foreign:ingredients:防晒霜", "length:4", f"type:missing {NASTY}"]
                if "best" in told(row, system)
                else [],
            }
            for row in RECORDS
            for system in systems
        ],
    )
    dims = {"facts": {"score": 3, "quote": "温和", "reason": NASTY}, "voice": {"score": 5, "quote": "", "reason": ""}}
    for score, system in enumerate(systems):
        write(
            f"data/judgements/{system}.jsonl",
            [
                {
                    "id": row[0],
                    "item": row[0][:2],
                    "type": row[1],
                    "outcome": "ok" if row[0] != "p2/ad/0" else "timeout",
                    "score": 4.5 - score if row[0] != "p2/ad/0" else None,
                    "dims": dims,
                }
                for row in RECORDS
            ],
        )


def build(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["report"])
    assert report.main() == 0
    assert report.PAGE.stat().st_size < 1_000_000
    return report.PAGE.resolve().as_uri()


@pytest.fixture
def file(toy: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    write("params.yaml", PARAMS)
    write("reports/metrics/filter.json", {"n": 9, "kept": 7, "types": {"ad": {"n": 9, "kept": 7, "retention": 0.7}}})
    plant()
    return build(monkeypatch)


@pytest.fixture
def recorded(toy: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page of the metrics that the repository holds: those of a whole run."""
    for name in ("metrics", "plots"):
        shutil.copytree(ROOT / "reports" / name, f"reports/{name}")
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, name)
    plant()
    return build(monkeypatch)


@pytest.fixture
def aligned(toy: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page of a run that has learnt preferences, with what only some runs show."""
    write("params.yaml", finished.PARAMS)
    found = finished.metrics(aligned=True)
    found["align"]["warnings"] = [
        "chosen texts have become less likely: -1.2500 to -1.5000 nats a token on held-out pairs, a fall of 0.2500; "
        "raise align.dpo.sft or align.dpo.beta, or lower align.dpo.lr"
    ]
    for name, value in found.items():
        write(f"reports/metrics/{name}.json", value)
    Path("reports/plots").mkdir()
    columns = ("loss", "accuracy", "validation_accuracy", "margin", "logp_chosen", "logp_rejected")
    lines = ["\t".join(("step", *columns)), *(f"{step}\t" + "\t".join(["0.5"] * len(columns)) for step in (10, 20))]
    Path("reports/plots/align.tsv").write_text("\n".join(lines) + "\n")
    plant(FOUR)
    return build(monkeypatch)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.launched() as found:
        yield found


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Contexts without a network that must end without an error and without a request but for the page itself."""
    alone = browsing.watching(browser, lambda url: url.split("#")[0].endswith("/index.html"), offline=True)
    with alone as fresh:
        yield fresh


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def count(page: Page) -> str:
    return page.inner_text("#count")


def record(page: Page) -> str:
    return page.inner_text("#record h3 a")


def text(page: Page, system: str) -> str:
    return page.locator(f".card.{system} pre").text_content() or ""


def shown(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


def test_keys_and_buttons_go_through_the_records(file: str, watch: Callable[..., Watched]) -> None:
    found = watch()
    page = found.open(file)
    assert (count(page), record(page)) == ("1 of 4", "p1/ad/0")
    press(page, "j", "j")
    assert (count(page), record(page)) == ("3 of 4", "p2/ad/0")
    assert page.url.endswith("#p2/ad/0"), "the address can be passed on"
    press(page, "k", "Control+j", "Alt+j")
    assert count(page) == "2 of 4"
    page.click("#next")
    press(page, "j", "j", "j")
    assert count(page) == "4 of 4"
    page.click("#previous")
    press(page, "k", "k", "k", "k")
    assert count(page) == "1 of 4"
    assert [text(page, system) for system in SYSTEMS] == [GOLDEN, TUNED, "short"]
    assert len(found.asked) == 1


def test_filters_and_search_narrow_and_keep_to_their_records(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    page.select_option("#kind", "note")
    assert (count(page), record(page)) == ("1 of 2", "p1/note/0")
    press(page, "Escape")
    page.click("#next")
    assert record(page) == "p2/note%/0"
    page.select_option("#kind", "")
    page.select_option("#which", "unscored")
    assert (count(page), record(page)) == ("1 of 1", "p2/ad/0")
    page.select_option("#which", "stop")
    assert (count(page), shown(page, "#record *")) == ("none of this kind", [])
    page.select_option("#which", "all")
    press(page, "Escape")
    page.locator("h2").first.click()
    press(page, "/")
    page.keyboard.type("adj")
    assert count(page) == "1 of 4", "keys are letters there"
    assert page.get_attribute("#compare", "aria-pressed") == "false"
    page.fill("#search", "ROSEHIP oil")
    assert (count(page), record(page)) == ("1 of 1", "p2/ad/0")
    assert shown(page, "mark.sought") == ["Rosehip oil", "rosehip OIL"]
    page.fill("#search", "(adj.), P2/")
    assert (count(page), record(page)) == ("1 of 2", "p2/ad/0"), "prompts are searched too"
    assert page.locator(".prompt mark.sought").text_content() == "(adj.), P2/"
    page.fill("#search", "P2")
    press(page, "Escape")
    page.click("#next")
    page.fill("#search", "")
    assert (count(page), record(page)) == ("4 of 4", "p2/note%/0"), "what is looked at stays"
    page.fill("#search", "no such words")
    assert count(page) == "none of this kind"
    page.fill("#search", "")
    assert (count(page), shown(page, "mark.sought")) == ("1 of 4", [])


def test_an_address_opens_its_record(file: str, watch: Callable[..., Watched]) -> None:
    found = watch()
    page = found.open(f"{file}#p2/ad/0")
    assert (count(page), record(page)) == ("3 of 4", "p2/ad/0")
    page.evaluate("location.hash = '#p1/note/0'")
    expect(page.locator("#count")).to_have_text("2 of 4")
    page.select_option("#kind", "note")
    page.evaluate("location.hash = '#p2/note%25/0'")
    expect(page.locator("#count")).to_have_text("2 of 2")  # a filter that holds it stays
    page.evaluate("location.hash = '#p1/ad/0'")
    expect(page.locator("#count")).to_have_text("1 of 4")  # one that does not goes
    assert page.input_value("#kind") == ""
    for strange in ("#filter", "#%", "#no/such/record"):
        page.evaluate(f"location.hash = {strange!r}")
        assert record(page) == "p1/ad/0"
    assert found.open(f"{file}#%E4%").locator("#count").inner_text() == "1 of 4"
    press(page, "j", "j", "j")
    page.reload()
    assert record(page) == "p2/note%/0"


WORDS = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode())
    if (node.parentElement.id !== "tongue" && !node.parentElement.closest("script, style")) found.push(node.data);
  return [...found, ...[...document.querySelectorAll("[aria-label]")].map((e) => e.ariaLabel)];
}"""


def test_two_languages_there_and_back(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(f"{file}#p1/note/0")
    english = page.evaluate(WORDS)
    assert (page.get_attribute("html", "lang"), page.inner_text("#tongue")) == ("en", "中文")
    page.click("#tongue")
    assert (page.get_attribute("html", "lang"), page.inner_text("#tongue")) == ("zh-CN", "English")
    assert "anneal 报告，配方 toy" in page.inner_text("h1")
    assert (count(page), page.inner_text("#which option:checked")) == ("2 / 4", "全部文本")
    assert shown(page, ".card h3") == ["金标", "微调", "基座"]
    assert "得分 4.50" in page.inner_text(".card.golden p")
    assert page.get_attribute("#search", "placeholder") == "搜索提示词和文本"
    # What models and users wrote stays, also where the page has the same word.
    assert text(page, "base") == NASTY
    assert shown(page, "#kind option") == ["全部类型", "scores", "Filter"]
    assert page.inner_text("#filter tbody th") == "scores"
    press(page, "j")
    assert count(page) == "3 / 4", "what is drawn later is Chinese as well"
    assert "未评审：timeout" in page.inner_text(".card.tuned p")
    page.reload()
    assert (page.get_attribute("html", "lang"), count(page)) == ("zh-CN", "3 / 4")
    press(page, "k")
    page.click("#tongue")
    assert page.evaluate(WORDS) == english
    assert page.url.endswith("#p1/note/0")
    page.reload()
    assert page.get_attribute("html", "lang") == "en"
    assert watch(locale="zh-CN").open(file).get_attribute("html", "lang") == "zh-CN"


def test_a_browser_without_storage_still_switches(file: str, watch: Callable[..., Watched]) -> None:
    found = watch()
    found.context.add_init_script(
        "for (const name of ['getItem', 'setItem']) Storage.prototype[name] = () => { throw new Error('denied') }"
    )
    page = found.open(file)
    page.click("#tongue")
    assert page.get_attribute("html", "lang") == "zh-CN"
    page.reload()
    assert page.get_attribute("html", "lang") == "en"


def test_a_page_without_texts_still_switches(
    toy: Path, monkeypatch: pytest.MonkeyPatch, watch: Callable[..., Watched]
) -> None:
    write("params.yaml", PARAMS)
    page = watch().open(build(monkeypatch))
    assert "No comparison yet" in page.inner_text(".verdict")
    press(page, "j", "k", "d")
    page.click("#tongue")
    assert "还没有比较结果" in page.inner_text(".verdict")
    assert "这里没有 data/test.jsonl" in page.inner_text("#side-by-side")


def names(value: Any) -> Iterator[str]:
    """Every key and word of a file: what the data call themselves has no translation."""
    if isinstance(value, dict):
        yield from value
        for part in value.values():
            yield from names(part)
    elif isinstance(value, list):
        for part in value:
            yield from names(part)
    elif isinstance(value, str):
        yield value


def untranslated(page: Page) -> tuple[int, list[str]]:
    """How many words of the page's own there are, and those that are English in Chinese."""
    own = {*names([json.loads(path.read_text("utf-8")) for path in Path("reports/metrics").rglob("*.json")])}
    own |= {*re.findall(r"[\w./-]+", Path("params.yaml").read_text("utf-8"))}
    selectors = ("h1", "h2", "h3", "nav a", "button", "thead th", "option", "summary", ".alerts li", ".verdict", "p")
    there, missing = 0, []
    for selector in selectors:
        kept = ":not([translate=no], .words tbody *, #record > h3, #record p)"
        for said in page.locator(f"{selector}{kept}").all_text_contents():
            there += 1
            words = re.sub(r"\s+[a-z]$", "", said.strip())  # the letter of a key
            english = re.search(r"[A-Za-z]{2}", words) and not re.search(r"[\u4e00-\u9fff]", words)
            if english and words not in {*CHINESE.values(), *own}:
                missing.append(f"{selector}: {words}")
    return there, missing


def test_every_heading_and_button_of_a_whole_run_has_its_chinese(recorded: str, watch: Callable[..., Watched]) -> None:
    there, missing = untranslated(watch(locale="zh-CN").open(recorded))
    assert there > 100
    assert missing == []


def test_sections_of_some_recipes_have_their_chinese(
    toy: Path, monkeypatch: pytest.MonkeyPatch, watch: Callable[..., Watched]
) -> None:
    """Layouts, verse, style, ways to decode, the contract, personal data: no one recipe has them all."""
    write("params.yaml", finished.PARAMS)
    for name, found in finished.metrics().items():
        write(f"reports/metrics/{name}.json", found)
    plant()
    there, missing = untranslated(watch(locale="zh-CN").open(build(monkeypatch)))
    assert there > 100
    assert missing == []


def test_preference_learning_has_its_chinese(aligned: str, watch: Callable[..., Watched]) -> None:
    page = watch(locale="zh-CN").open(aligned)
    there, missing = untranslated(page)
    assert there > 200
    assert missing == []
    assert shown(page, ".verdict")[2].startswith("对齐优于微调，高 0.50")
    assert page.inner_text("#scores thead tr >> nth=0").split("\t")[-4:] == [
        "p",
        "对齐 − 微调",
        "对齐 − BASE 的对齐",
        "最佳：金标 / 对齐 / 微调 / 基座 / 平",
    ]
    assert "偏好学习：优选文本变得更不可能" in page.inner_text(".alerts")
    assert page.inner_text("#which option:nth-child(5)") == "对齐得分低于微调"


def audited() -> list[str]:
    """Every flag of an audit of pairs, and every reason not to train on samples."""
    none = {"auc": None, "equal": {"auc": None}, "folds": 5, "top": []}
    solved = {"auc": 0.99, "equal": {"auc": 0.9}, "folds": 5, "top": [{"ngram": "!", "side": "rejected"}]}
    leak = {"n": 3, "any": 2, **dict.fromkeys(pair_flaws.SHARED, 1)}
    column = {
        "n": 9,
        "items": 3,
        "identical": 1,
        "duplicates": {"pairs": 2, "prompted": 1},
        "leaks": {"test": leak},
        "parts": {"train": 9, "validation": 0, "test": 3},
        "ngrams": solved,
    }
    ways = {"longer": (9, 0, 1.0), "shorter": (0, 9, 0.0)}
    kinds = {
        name: {**column, "length": {"longer": more, "shorter": less, "auc": auc}}
        for name, (more, less, auc) in ways.items()
    }
    numbers = {"n": 9, "strategies": kinds, "all": {**kinds["longer"], "ngrams": none}}
    found = [flag["line"] for flag in pair_flaws.flags(numbers, 0.95)]
    assert len({flag["name"] for flag in pair_flaws.flags(numbers, 0.95)}) == 7
    limits = reward_spread.Limits(max_zero_spread=0.1, max_length_rho=0.1)
    for zero, rho in ((2, None), (1, 0.5), (1, -0.5)):
        figures = {"n": 2, "samples": 4, "functions": {"banned": {"mean": 1.0}}, "length": {"rho": rho, "n": 2}}
        figures["zero_spread"] = {"n": zero, "share": zero / 2, "full": 1, "same": 0}
        found += [f"unsuitable for training: {line}" for line in reward_spread.refusals(figures, limits)]
    assert len(found) == 20
    return found


def concluded() -> list[str]:
    """The headlines and the comparison of runs with an aligned model, whatever their interval."""
    gap = finished.gap
    gaps = [
        gap(-0.5, -0.9, -0.1),
        gap(0.1, -0.2, 0.4),
        gap(0.7, None, None),
        {**gap(0, None, None), "mean": None},
        gap(0.5, 0.3, 0.7) | {"bounds": [-0.1, 0.9]},
        gap(0.4, 0.1, 0.7) | {"p": 0.25},
        gap(0.01, -0.02, 0.04) | {"p_equivalent": 0.01, "margin": 0.1},
    ]
    runs = [finished.sound(aligned=True, compare__aligned_difference=found) for found in gaps]
    found = [line for now in runs for line in headline.lines(now)[2:]]
    found += headline.lines(finished.sound(aligned=True, card=None))[1:]
    lost = {"n": 40, "mean": 0.0}
    blind = finished.card(defects={"null": {"lower": lost, "higher": lost}})
    found += headline.lines(finished.sound(aligned=True, card=blind))[1:]
    for low, high in ((None, None), (0.1, 0.4), (0.4, 0.6)):
        win = {"n": 4, "clusters": 2, "mean": 0.5, "low": low, "high": high}
        pairs = {"aligned:tuned": finished.pair(win=win)}
        found.append(headline.lines(finished.sound(aligned=True, compare__preferences__pairs=pairs))[-1])
    found.append(
        headline._difference_sentence(
            headline.with_all_keys(gaps[0] | {"p": 0.001}), "aligned", "tuned", "rule score", 2.0
        )
    )
    old = Snapshot("main", "", finished.metrics(), finished.PARAMS)
    return [*found, regressions.sentence(runs[0], old, regressions.changes(runs[0], old))]


def test_lines_that_other_runs_show_have_their_chinese(file: str, toy: Path, watch: Callable[..., Watched]) -> None:
    page = watch(locale="zh-CN").open(file)
    lines = [*audited(), *concluded(), "Training by grpo"]
    assert len(lines) > 30
    for line in lines:
        said = page.evaluate("words => say(words)", line)
        assert re.search(r"[\u4e00-\u9fff]", said), line
        # "chosen" and "rejected" beside an n-gram are what pairs.json calls the sides.
        assert not re.search(r"\b(aligned|tuned|score|passes|pairs|than|prompts|samples|training)\b", said), (
            line,
            said,
        )


def test_the_dictionary_is_whole_and_small() -> None:
    raw = (Path(html.__file__).parent / "report/assets/report.zh.json").read_text("utf-8")
    assert len(raw.encode()) < 48_000
    pairs = json.loads(raw, object_pairs_hook=list)
    assert len(pairs) == len({key for key, _ in pairs}) > 150, "no entry twice"
    for key, value in pairs:
        holes = re.findall(r"\{[nw]?\}", key)
        assert key == key.strip()
        assert len(re.findall(r"\{\d*\}", value)) == len(holes), key
        assert "}{" not in key, f"{key}: two holes that nothing parts"


def test_a_text_that_is_only_like_a_pattern_is_left(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    page.click("#tongue")
    assert page.evaluate("say('3 of 14')") == "3 / 14"
    assert page.evaluate("say(' score 4.50 ')") == " 得分 4.50 "
    for words in ("one of many", "score of ages", "constructor", "of", "{n} of", "3 of "):
        assert page.evaluate("words => say(words)", words) == words
    assert (
        page.evaluate("say('No warning. Something else. As bars: golden')") == "没有警告。Something else. As bars: 金标"
    )


def test_names_in_cells_stay_and_states_do_not(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    page.evaluate("""() => {
      const row = document.querySelector("#filter tbody tr");
      for (const words of ["value", "chosen", "another judge"]) row.insertCell().textContent = words;
    }""")
    page.click("#tongue")
    cells = page.locator("#filter tbody tr").first.locator("td").all_text_contents()
    assert cells[-3:] == ["value", "当前", "评审不同"]


def test_the_difference_is_marked_and_the_texts_stay_whole(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    assert shown(page, "#record ins, #record del") == []
    assert page.get_attribute("#compare", "aria-pressed") == "false"
    press(page, "d")
    assert page.get_attribute("#compare", "aria-pressed") == "true"
    assert shown(page, ".card.golden del") == ["透亮", "😀"]
    assert "".join(shown(page, ".card.tuned ins")) == "保湿😎, the best ever"
    assert [text(page, system) for system in SYSTEMS] == [GOLDEN, TUNED, "short"]
    press(page, "j", "j", "j")
    assert shown(page, "#record ins, #record del") == [], "the same text holds no difference"
    press(page, "k", "k", "k")
    page.click("#compare")
    assert shown(page, "#record ins, #record del") == []


def test_the_difference_of_any_two_texts_leaves_what_they_share(file: str, watch: Callable[..., Watched]) -> None:
    """Without what is marked both texts are the same; of long ones whole lines are marked."""
    page = watch().open(file)
    rng = random.Random(1)
    pairs = [
        ("", ""),
        ("", "a"),
        ("ab", "ab"),
        ("😀", "😎"),
        ("aXb", "aYb"),
        ("x" * 3000, "y" * 3000),
        ("ab" * 999, "ba" * 999),
    ]
    for size in (5, 40, 300):
        one = rng.choices("甲乙丙丁\n😀", k=size)
        other = [letter for letter in one if rng.random() > 0.2] + rng.choices("甲乙", k=3)
        pairs.append(("".join(one), "".join(other)))
    assert page.evaluate("differ('a12b', 'x12y')") == [[[0, 4]], [[0, 4]]], "two letters alike are chance"
    rest = "([text, gone]) => [...gone].reverse().reduce((all, [a, b]) => all.slice(0, a) + all.slice(b), text)"
    for one, other in pairs:
        gone, fresh = page.evaluate("([a, b]) => differ(a, b)", [one, other])
        left = [page.evaluate(rest, [text, marks]) for text, marks in ((one, gone), (other, fresh))]
        assert left[0] == left[1]
        assert all(end > start for start, end in (*gone, *fresh))
    page_of = [f"line {i} says something\n" for i in range(900)]
    changed = [*page_of[:300], "another line\n", *page_of[301:]]
    gone, fresh = page.evaluate("([a, b]) => differ(a, b)", ["".join(page_of), "".join(changed)])
    start = len("".join(page_of[:300]))
    assert (gone, fresh) == ([[start, start + len(page_of[300])]], [[start, start + len("another line\n")]])


def test_the_aligned_text_is_beside_the_others(aligned: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(aligned)
    assert shown(page, ".card h3") == list(FOUR)
    assert text(page, "aligned") == TUNED.removesuffix(", the best ever")
    press(page, "d")
    assert shown(page, ".card.golden del") == ["透亮", "😀"]
    assert "".join(shown(page, ".card.aligned ins")) == "保湿😎"
    assert shown(page, ".card.tuned :is(ins, del)") == []
    press(page, "d")
    assert "".join(shown(page, ".card.tuned del")) == ", the best ever", "what preference learning took out"
    assert shown(page, ":is(.card.golden, .card.aligned) :is(ins, del)") == []
    assert page.get_attribute("#compare", "title") == "tuned : aligned"
    press(page, "d")
    assert shown(page, "#record ins, #record del") == []
    assert page.get_attribute("#compare", "aria-pressed") == "false"
    page.select_option("#which", "facts")
    assert count(page) == "none of this kind", "aligned has no banned word; tuned has one"
    page.select_option("#which", "below")
    assert count(page) == "none of this kind", "aligned scores above tuned, which scores above base"


def test_hits_of_rules_are_marked_in_the_text(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    looks = "all => all.map((e) => [e.textContent, e.title])"
    expected = [["防晒霜", "foreign"], ["best", "banned"]]
    assert page.locator(".card.tuned mark.hit").evaluate_all(looks) == expected
    assert page.locator(".card.golden mark").count() == 0
    assert f"type:missing {NASTY}" in shown(page, ".card.tuned .mark.bad")
    press(page, "d")
    assert page.locator(".card.tuned mark.hit").evaluate_all(looks) == expected
    assert page.locator(".card.tuned ins mark.hit").count() == 1
    found = page.evaluate("hits({text: 'aa bb aa', found: ['banned:best'], quotes: ['aa', '', 'gone']})")
    assert [(hit["from"], hit["to"], hit["name"]) for hit in found] == [(0, 2, "quoted"), (6, 8, "quoted")]


def test_markup_in_texts_is_shown_and_not_run(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(f"{file}#p1/note/0")
    for key in ("d", "d"):
        press(page, key)
        page.fill("#search", "script")
        page.locator("h2").first.click()
        assert (text(page, "tuned"), text(page, "base")) == (f"A loud note {NASTY}", NASTY)
        assert NASTY in (page.locator(".prompt").text_content() or "")
        assert NASTY in "".join(shown(page, ".card.tuned li"))
    page.click("#tongue")
    assert page.locator("#record script, #record img").count() == 0
    assert page.title() == "anneal 报告"
    blocked = """() => {
      const added = document.createElement("script");
      added.textContent = "document.title = 1";
      document.body.append(added);
    }"""
    found = watch()
    other = found.open(file)
    other.evaluate(blocked)
    assert (other.title(), len(found.wrong)) == ("anneal report", 1), "the policy of the page refuses any other script"
    found.wrong.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen(recorded: str, watch: Callable[..., Watched], width: int, scheme: Any) -> None:
    page = watch(viewport={"width": width, "height": 800}, color_scheme=scheme).open(recorded)
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("#tongue")
    cards = [page.locator(".card").nth(i).bounding_box() or {} for i in range(3)]
    assert len({card["y"] for card in cards}) == (1 if width == 1280 else 3), "side by side, or one below the other"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (900, "light"), (390, "dark")])
def test_preference_learning_fits_too(aligned: str, watch: Callable[..., Watched], width: int, scheme: Any) -> None:
    page = watch(viewport={"width": width, "height": 800}, color_scheme=scheme).open(aligned)
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("#tongue")
    cards = [page.locator(".card").nth(i).bounding_box() or {} for i in range(4)]
    assert len({card["y"] for card in cards}) == {1280: 1, 900: 2, 390: 4}[width]
    seen = (
        "[...document.querySelectorAll('i.key.aligned, i.key.tuned')].map((e) => getComputedStyle(e).backgroundColor)"
    )
    assert len(set(page.evaluate(seen))) == 2, "told apart in both schemes"


def test_tokens_with_and_without_loss_differ_without_colour(file: str, watch: Callable[..., Watched]) -> None:
    page = watch().open(file)
    made = """() => {
      const pre = document.createElement("pre");
      pre.className = "tokens";
      for (const className of ["read", "learnt"])
        pre.append(Object.assign(document.createElement("span"), { className }));
      document.body.append(pre);
      return [...pre.children].map((e) => getComputedStyle(e).textDecorationLine);
    }"""
    assert page.evaluate(made) == ["none", "underline"]
