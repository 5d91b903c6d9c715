import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from anneal.history import revision
from anneal.report import artifacts, changes
from commands import report
from tests.finished import PARAMS, metrics, pair, preset
from tests.keeping import judgement, keep

NASTY = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & | </script>"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def write(path: str, value: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")


def rows(path: str, values: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(value) + "\n" for value in values))


def texts(n: int, words: str, systems: tuple[str, ...] = ("golden", "tuned", "base")) -> None:
    """The data files behind the side-by-side browser."""
    ids = [f"a{i}/ad/0" for i in range(n)]
    prompt = [{"role": "user", "content": f"Write an ad. {words}"}]
    rows("data/test.jsonl", [{"id": i, "item": i[:2], "type": "ad", "prompt": prompt} for i in ids])
    checks = [
        {
            "id": i,
            "system": s,
            "type": "ad",
            "text": words,
            "strict": s != "base",
            "all_facts": True,
            "stopped": True,
            "checks": {"type": s != "base", "strict": s != "base"},
            "found": [f"ingredients:{words}"],
        }
        for s in systems
        for i in ids
    ]
    rows("data/checks.jsonl", checks)
    dims = {"facts": {"score": 3, "quote": words, "reason": words}}
    for system in systems:
        judged = [{"id": i, "type": "ad", "outcome": "ok", "score": 3.0, "dims": dims} for i in ids]
        rows(f"data/judgements/{system}.jsonl", judged)


@pytest.fixture
def project(toy: Path) -> Path:
    """A checkout after a run, without git."""
    write("params.yaml", PARAMS)
    write("prompts/toy/judge/ad.md", "# User\nJudge it.\n")
    for name, value in metrics().items():
        write(f"reports/metrics/{name}.json", value)
    write(
        "reports/plots/train.tsv", "step\tepoch\tloss\tlr\tvalidation_loss\n10\t1\t2.5\t0.1\t\n20\t2\t1.5\t0.1\t1.7\n"
    )
    write("reports/plots/filter.tsv", "log_prob\tkept\tdropped\n-9\t0\t4\n-8\t10\t0\n-7\t20\t0\n")
    write(
        "reports/plots/samples.tsv",
        "step\tn\tstopped\tstrict\ttype\n10\t4\t0.5000\t0.0000\t0.2500\n20\t4\t1.0000\t0.7500\t1.0000\n",
    )
    write("dvc.lock", "schema: '2.0'\n")
    texts(2, "Buy & enjoy.")
    return toy


@pytest.fixture
def aligned(project: Path) -> Path:
    """The same after preference learning."""
    for name, value in metrics(aligned=True).items():
        write(f"reports/metrics/{name}.json", value)
    write("reports/plots/align.tsv", "step\tloss\taccuracy\tvalidation_accuracy\n10\t0.7\t0.5\t\n20\t0.5\t0.75\t0.8\n")
    write("reports/plots/reward.tsv", "step\tloss\tmargin\n10\t0.7\t0.1\n20\t0.5\t1.5\n")
    texts(2, "Buy & enjoy.", ("golden", "aligned", "tuned", "base"))
    return project


def commit(folder: Path) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", *who, *words], cwd=folder, check=True)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """The exit code, the page and the summary."""
    monkeypatch.setattr(sys, "argv", ["report", *words])
    code = report.main()
    return code, *(p.read_text("utf-8") if p.exists() else "" for p in (report.PAGE, report.SUMMARY))


class Page(HTMLParser):
    """All elements with attributes, and all text outside scripts and styles."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] and self.elements[-1][0] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_a_run_without_git_is_a_page_in_order(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, page, summary = run(monkeypatch)
    assert code == 0
    said = Page(page)
    assert "no git repository here" in said.text
    assert "no git repository here" in summary
    heads = [attributes["id"] for tag, attributes in said.elements if tag == "section"]
    # Nobody has voted: test_blind.py has the section of people; test_mask_preview.py has a tokenizer.
    absent = ("People", "Mask preview", "Preference learning")
    assert heads == [name.lower().replace(" ", "-") for name in report.SECTIONS if name not in absent]
    sentence = "tuned is better than base by 2.50 [2.20, 2.80] (model score, 1 to 5; n = 4 in 2 items, 95% interval)"
    assert sentence in said.text
    assert f"**{sentence}**" in summary
    sound = ("0 items in more than one part", "differ by at most 2e-05", "6 type, 4 density", "An ad", "29 of 29 rows")
    more = ("in total 100.0%", "minus greedy", "unknown line ends", "14 chunks", "masked (generate.pii: mask)")
    tests = (
        "3 pass in tuned only and 0 in base only; McNemar p = 0.25).",
        "Judges tried: 1.",
        "UNCALIBRATED: no votes",
    )
    least = ("few steps: 60", "one wording only", "total variation 12.5%", "the 1 kept texts", "4 validation prompts")
    for words in (*sound, *more, *tests, *least, "outbound connections: not measured"):
        assert words in said.text, words


def test_sections_without_metrics_are_left_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = metrics()
    for name in ("decoding", "layouts", "verses", "styles", "accepted"):
        del found["evaluate"][name]
    for name in ("essays", "pii"):
        del found["generate"][name]
    write("reports/metrics/evaluate.json", found["evaluate"])
    write("reports/metrics/generate.json", found["generate"])
    write("params.yaml", {**PARAMS, "accept": {"checks": []}, "privacy": {"local_only": False}})
    write("reports/plots/samples.tsv", "step\tn\tstopped\tstrict\n")
    code, page, _ = run(monkeypatch)
    assert code == 0
    said = Page(page)
    heads = {attributes["id"] for tag, attributes in said.elements if tag == "section"}
    assert heads == {name.lower().replace(" ", "-") for name in report.SECTIONS} - {
        "contract",
        "decoding",
        "kinds-of-text",
        "mask-preview",
        "people",
        "preference-learning",
    }
    for words in ("prompts that pass", "Personal data", "outbound", "documents were cut"):
        assert words not in said.text, words


def test_answers_during_training_are_charts_with_a_table(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Page(run(monkeypatch)[1])
    drawn = [attributes["class"] for tag, attributes in said.elements if tag == "polyline"]
    assert drawn[-3:] == ["line stopped", "line strict", "line type"]
    rows = said.text.split("4 validation prompts")[1]
    assert re.search(r"step +n +stopped +strict +type +10 +4 +50.0% +0.0% +25.0% +20 +4 +100.0% +75.0% +100.0%", rows)


def test_connections_are_counted_over_the_newest_run_of_each_stage(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = {"seconds": 1.0, "peak_mb": 9, "exit": 0}
    rows(
        ".work/times/stages.jsonl",
        [
            {"stage": "train", **last, "outbound": 7},
            {"stage": "train", **last, "outbound": 0},
            {"stage": "judge base", **last, "outbound": 0},
            {"stage": "merge", **last},
        ],
    )
    with Path(".work/times/stages.jsonl").open("a") as log:
        log.write('{"stage": "spl')
    line = "outbound connections: 0, measured in the last runs of 2 stages"
    code, page, _ = run(monkeypatch)
    assert code == 0
    assert line in Page(page).text
    assert line in capsys.readouterr().out.splitlines()
    with Path(".work/times/stages.jsonl").open("a") as log:
        log.write('\n{"stage": "split", "seconds": 1, "peak_mb": 9, "exit": 1, "outbound": 2}\n')
    code, page, summary = run(monkeypatch)
    assert "outbound connections: 2, measured" in Page(page).text
    assert "**Attention**: 2 outbound connections although privacy.local_only is true" in summary
    write("params.yaml", {**PARAMS, "privacy": {"local_only": False}})
    code, page, summary = run(monkeypatch)
    assert "connections" not in Page(page).text + summary


def test_nothing_has_run_yet(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, page, summary = run(monkeypatch)
    assert code == 0
    assert "No comparison yet" in Page(page).text
    assert "No comparison yet" in summary
    assert "data/test.jsonl and data/checks.jsonl are missing" in Page(page).text


def test_a_missing_base_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=project, check=True)
    assert revision.at("main").note == "first run: this repository holds no commit to compare with"
    commit(project)
    for base in ("no-such-branch", "--all", "HEAD~9"):
        assert revision.at(base).note == f"{base} is no revision of this repository; name one: make report BASE=HEAD"
    code, page, summary = run(monkeypatch, "no-such-branch")
    assert code == 0
    assert "no-such-branch is no revision" in Page(page).text
    assert "no-such-branch is no revision" in summary
    shutil.rmtree(".git")
    shutil.move("reports/metrics", "kept")
    commit(project)
    shutil.move("kept", "reports/metrics")
    code, page, _ = run(monkeypatch, "main")
    assert code == 0
    assert re.search(r"first run: main \([0-9a-f]{10}\) holds no metrics", Page(page).text)


def test_without_git_installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project / "empty"))
    assert revision.at("main").note.startswith("no git repository")


def test_what_changed_is_shown_and_nothing_else(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(project)
    code, page, summary = run(monkeypatch, "main")
    assert code == 0
    assert Page(page).text.count("unchanged") >= 3
    assert "Params: unchanged." in summary
    assert "Metrics: unchanged." in summary
    write("params.yaml", {**PARAMS, "train": {**PARAMS["train"], "lr": 2e-5}})
    changed = metrics()
    changed["compare"]["overall"]["tuned"]["strict"] = 0.5
    changed["compare"]["by_type"]["ad"]["tuned"]["strict"] = 0.25
    write("reports/metrics/compare.json", changed["compare"])
    write("prompts/toy/judge/ad.md", "# User\nJudge it kindly.\n")
    write("prompts/other/judge/ad.md", "another recipe\n")
    assert revision.changes(revision.at("main").params, revision.here().params) == [("train.lr", 0.001, 2e-05)]
    code, page, summary = run(monkeypatch, "main")
    said = Page(page).text
    assert "train.lr" in said
    assert "compare.by_type.ad.tuned.strict" in said
    assert "-Judge it." in said
    assert "+Judge it kindly." in said
    assert "another recipe" not in said
    assert "| train.lr | 0.001 | 2e-05 |" in summary
    assert "| compare.overall.tuned.strict | 0.75 | 0.50 | -0.25 |" in summary
    assert "by_type" not in summary


def test_prompts_are_compared_as_unified_diffs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("prompts/toy/judge/ad.md", "".join(f"line {i}\n" for i in range(20)))
    commit(project)
    write("prompts/toy/judge/ad.md", "".join(f"line {i}\n" if i != 9 else "line nine\n" for i in range(20)))
    page = run(monkeypatch, "main")[1]
    lines = re.findall(
        r"<span(?: class=\"(\w+)\")?>([^<]*)</span>", page.split('<pre class="diff">')[1].split("</pre>")[0]
    )
    assert [text for _, text in lines][1:] == [
        "+++ here",
        "@@ -8,5 +8,5 @@",
        " line 7",
        " line 8",
        "-line 9",
        "+line nine",
        " line 10",
        " line 11",
    ]
    assert [name for name, _ in lines] == ["", "", "", "", "", "minus", "plus", "", ""]


def test_texts_that_regressed_are_linked_to_the_browser(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"a{i}/ad/0" for i in range(2)]
    was, now = ([judgement(i, score) for i in ids] for score in (4.0, 3.0))
    md5 = keep(was)
    outs = f"outs: [{{path: data/judgements/tuned.jsonl, md5: {md5}}}]"
    write("dvc.lock", f"schema: '2.0'\nstages:\n  judge@tuned:\n    cmd: x\n    {outs}\n")
    commit(project)
    rows("data/judgements/tuned.jsonl", now)
    _, page, summary = run(monkeypatch, "main")
    links = [a.get("href") for tag, a in Page(page).elements if tag == "a"]
    assert [link for link in links if link in ("#a0/ad/0", "#a1/ad/0")] == ["#a0/ad/0", "#a1/ad/0"]
    shown = json.loads(re.findall(r'id="rows">(.*?)</script>', page)[0])
    assert [row["id"] for row in shown] == ids, "where the links lead to"
    assert "| An ad | 4.50 | 4.00 | 1.50 | +2.50 [+2.20, +2.80] | -1.00 |" in summary
    assert run(monkeypatch, "main", "--max-regression", "0.5")[0] == 3
    assert run(monkeypatch, "main", "--max-regression", "1")[0] == 0


def test_an_aligned_model_is_beside_the_others_everywhere(aligned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(aligned)
    code, page, summary = run(monkeypatch, "main")
    assert code == 0
    said = Page(page)
    heads = [attributes["id"] for tag, attributes in said.elements if tag == "section"]
    assert heads[heads.index("side-by-side") + 1] == "preference-learning"
    assert re.findall(r'<p class="verdict">(aligned is [^<:]*?) by', page) == ["aligned is better than tuned"]
    for words in (
        "type n golden aligned tuned base tuned − base p aligned − tuned aligned − aligned at BASE",
        "best: golden / aligned / tuned / base / tie",
        "2 / 1 / 1 / 0 / 1",
        "aligned fails strict",
        "aligned scores below tuned",
        "chosen above rejected",
        "aligned as Li",
        "all of align.json",
    ):
        assert words in re.sub(r"\s+", " ", said.text), words
    drawn = {attributes["class"] for tag, attributes in said.elements if tag in ("rect", "polyline")}
    assert {"aligned", "line accuracy", "line margin", "line ideal"} <= drawn
    shown = json.loads(re.findall(r'id="rows">(.*?)</script>', page)[0])
    assert shown[0]["systems"].keys() == {"golden", "aligned", "tuned", "base"}
    assert "aligned is better than tuned by 0.50" in summary
    assert run(monkeypatch, "main") == (code, page, summary), "same inputs, same bytes"


def test_without_an_aligned_model_the_page_omits_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, page, summary = run(monkeypatch)
    assert "aligned" not in Page(page).text + summary


def test_the_terminal_has_the_aligned_model_too(
    aligned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "main", "--min-score", "4.5")[0] == 3
    said = capsys.readouterr()
    assert "aligned is better than tuned by 0.50 [0.25, 0.75]" in said.out
    assert re.search(r"│ aligned +│ 4 │", said.out)
    assert "gate closed: aligned scores 4.50 [4.40, 4.60], 3.50 with failed judgements at worst" in said.err


def test_a_checkout_in_a_folder_of_a_repository(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = project / "inner"
    inner.mkdir()
    for name in ("params.yaml", "prompts", "reports"):
        shutil.move(name, inner / name)
    commit(project)
    monkeypatch.chdir(inner)
    assert revision.at("main").metrics == revision.here().metrics == metrics()
    assert revision.at("main").prompts == revision.here().prompts != {}
    assert revision.at("main").params == PARAMS


def test_scores_of_another_judge_have_no_difference(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(project)
    changed = metrics()
    changed["judge/tuned"]["judge_ids"] = {"ad": "j2"}
    changed["compare"]["overall"]["tuned"]["score"] = 4.4
    changed["compare"]["overall"]["tuned"]["strict"] = 0.5
    for name in ("compare", "judge/tuned"):
        write(f"reports/metrics/{name}.json", changed[name])
    found = {row[0]: row[3] for row in changes.numbers(revision.here(), revision.at("main"))}
    assert found == {"compare.overall.tuned.score": "another judge", "compare.overall.tuned.strict": "-0.25"}
    assert "was judged by another judge" in run(monkeypatch, "main")[1]


def test_same_inputs_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(project)
    first = run(monkeypatch, "main")
    write(".work/times/stages.jsonl", '{"stage": "train", "seconds": 61.5, "peak_mb": 900, "exit": 0}\n')
    assert run(monkeypatch, "main") == first


def test_times_are_printed_in_the_terminal(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(
        ".work/times/stages.jsonl",
        [
            {"stage": "train", "seconds": 9.0, "peak_mb": 900, "exit": 0},
            {"stage": "train", "seconds": 61.5, "peak_mb": 900, "exit": 0},
            {"stage": "merge", "seconds": 5.0, "peak_mb": 900, "exit": 1},
        ],
    )
    run(monkeypatch)
    said = capsys.readouterr().out
    assert "train 62 s" in said
    assert "merge" not in said
    assert "file://" in said


def test_markup_in_texts_is_shown_and_never_run(aligned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(aligned)
    write("params.yaml", {**PARAMS, "recipe": NASTY, "types": {"ad": NASTY}, "model": {"name": NASTY}, NASTY: NASTY})
    found = metrics(aligned=True)
    found["pairs"]["strategies"] = {NASTY: found["pairs"]["strategies"]["weak"]}
    found["pairs"]["strategies"][NASTY]["ngrams"]["top"][0]["ngram"] = NASTY
    found["pairs"]["flags"] = [{"name": NASTY, "strategy": NASTY, "line": NASTY}]
    found["reward"] |= {"accuracy": {NASTY: {"n": 1}}, "warnings": [NASTY], "refusals": [NASTY]}
    found["rollout/tuned"] |= {"functions": {NASTY: {"n": 1}}, "refusals": [NASTY]}
    found["align"] |= {"method": NASTY, "warnings": [NASTY], "first": {NASTY: 1.0}}
    found["align"]["after"]["sum"] = {NASTY: {"n": 1}}
    found["compare"]["alignment"]["rollouts"]["functions"] = {NASTY: {"systems": {}, "difference": {"reason": NASTY}}}
    write("reports/plots/align.tsv", f"step\t{NASTY}\tloss\n10\t1\t0.5\n")
    found["compare"]["by_type"][NASTY] = found["compare"]["by_type"].pop("note")
    found["compare"]["score_kind"] = NASTY
    found["filter"]["dropped"] = {NASTY: 3}
    found["train"][NASTY] = NASTY
    found["accept"]["rejections"] = {NASTY: 1}
    found["accept"]["rungs"][NASTY] = found["accept"]["rungs"]["first"]
    found["evaluate"]["accepted"][NASTY] = found["evaluate"]["accepted"]["type"]
    found["evaluate"]["decoding"]["tuned"][NASTY] = preset()
    found["evaluate"]["styles"]["tuned"]["authors"] = {NASTY: {NASTY: {"n": 1}}}
    found["filter"]["density"]["lowest_kept"][0] |= {"id": NASTY, "text": NASTY}
    found["filter"]["density"]["names"] = {NASTY: {"total_variation": 0.1, "names": {NASTY: {"n": 1, "kept": 1}}}}
    found["filter"]["features"][NASTY] = {"ks": 0.5}
    found["format"]["budget"]["warnings"] = [NASTY]
    found["generate"]["pii"]["found"] = {NASTY: 1}
    found["card"] |= {"family": [NASTY], "blind_to": [NASTY], "left_out": {NASTY: NASTY}}
    found["card"]["defects"] = {NASTY: found["card"]["defects"]["fake"]}
    found["compare"]["preferences"]["pairs"] = {NASTY: pair(sentence=NASTY, withheld=NASTY), "tuned:base": pair()}
    found["compare"]["judge_controls"] = {NASTY: {"at_golden": 0.5, "n": 4, "reason": NASTY}}
    found["compare"]["dims"] = {NASTY: {NASTY: {"n": 1}}}
    write("reports/plots/samples.tsv", f"step\tn\t{NASTY}\n10\t4\t0.5\n")
    for name, value in found.items():
        write(f"reports/metrics/{name}.json", value)
    texts(2, NASTY, ("golden", "aligned", "tuned", "base"))
    code, page, summary = run(monkeypatch, "main")
    assert code == 0
    said = Page(page)
    assert said.text.count(NASTY) > 20
    scripts = [attributes for tag, attributes in said.elements if tag == "script"]
    assert [s.get("id") for s in scripts] == ["rows", "labels", "zh", None]
    assert not {tag for tag, _ in said.elements} & {"img", "iframe", "link", "object", "form", "base"}
    links = {value for _, attributes in said.elements for key, value in attributes.items() if key in ("href", "src")}
    assert all(str(link).startswith("#") for link in links)
    assert not [key for _, attributes in said.elements for key in attributes if key.startswith("on") or key == "style"]
    assert "<script" not in summary
    assert not re.search(r"https?://|url\(|@import", page)


def test_a_page_stays_below_a_megabyte(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts(900, "A long text. " * 60)
    code, page, _ = run(monkeypatch)
    assert code == 0
    assert len(page.encode()) < 1_000_000
    shown = re.search(r"The page holds (\d+) of 900 records", Page(page).text)
    assert shown
    assert 50 < int(shown[1]) < 900


def test_reasons_are_dropped_before_records(project: Path) -> None:
    texts(10, "word " * 50)
    whole, n = artifacts.browser()
    assert whole[0]["systems"]["tuned"]["dims"]["facts"] == [3, "word " * 50, "word " * 50]
    assert n == 10
    size = len(json.dumps(whole).encode())
    less, n = artifacts.browser(size - 1)
    assert n == len(less) == 10
    assert less[0]["systems"]["tuned"]["dims"]["facts"] == [3, "word " * 50, ""]
    least, _ = artifacts.browser(size // 2)
    assert least[0]["systems"]["tuned"]["dims"]["facts"] == [3, "", ""]


def test_without_a_card_the_verdict_shows_no_score(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("reports/metrics/card.json").unlink()
    code, page, summary = run(monkeypatch)
    assert code == 0
    lines = re.findall(r'<p class="verdict">(.*?)</p>', page)
    assert len(lines) == 1
    assert lines[0].startswith("No difference shown between the strict pass rates of tuned and base")
    assert lines[0].endswith("no judge card for this judge: `make judge-card`")
    assert "2.50" not in summary.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--min-score", "3"], 0, ""),
        (["--min-score", ""], 0, ""),
        (
            ["--min-score", "4.2"],
            3,
            "gate closed: tuned scores 4.00 [3.90, 4.10], 3.00 with failed judgements at worst, below MIN_SCORE",
        ),
        (["--max-regression", "0.1"], 3, "gate closed: MAX_REGRESSION has nothing to compare with: no git repository"),
        (["--min-score", "four"], 1, "MIN_SCORE=four: a number from 1 to 5"),
        (["--max-regression", "-1"], 1, "MAX_REGRESSION=-1: a number from 0 to 4"),
    ],
)
def test_the_gate_has_an_exit_code_and_one_line(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    found, page, _ = run(monkeypatch, *words)
    assert found == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    assert not said or lines[0].startswith(f"report: {said}")
    assert bool(page) == (code != 1), "a closed gate still leaves the page that says why"


@pytest.mark.parametrize("name", sorted(metrics(aligned=True)))
def test_any_part_may_be_missing_or_of_an_older_form(aligned: Path, name: str) -> None:
    """Half a pipeline is a report, and so is one whose metrics lack the keys that came later."""
    old = revision.at("main")
    Path(f"reports/metrics/{name}.json").unlink()
    assert "</html>" in report.page(revision.here(), old)
    write(f"reports/metrics/{name}.json", {})
    assert "</html>" in report.page(revision.here(), old)
    whole = metrics(aligned=True)[name]
    for key in whole:
        write(f"reports/metrics/{name}.json", {k: v for k, v in whole.items() if k != key})
        assert "</html>" in report.page(revision.here(), old), key
        assert report.summary.summary(revision.here(), old), key


def test_quotes_of_violations_are_in_the_page(project: Path) -> None:
    found = [{"rule": "banned", "quote": q} for q in ("enjoy", "enjoy", "not in the text", "", "Buy")]
    ids = [f"a{i}/ad/0" for i in range(2)]
    rows("data/judgements/tuned.jsonl", [judgement(i, 3.0) | {"violations": found} for i in ids])
    shown, _ = artifacts.browser()
    assert shown[0]["systems"]["tuned"]["quotes"] == ["Buy", "enjoy"]
    assert shown[0]["systems"]["base"]["quotes"] == [], "rows of an older form have none"


def test_a_broken_metrics_file_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("reports/metrics/compare.json", '{"overall": ')
    assert run(monkeypatch)[0] == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("report: reports/metrics/compare.json: unreadable in here")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_browser_shows_texts_of_models_as_text(aligned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real page in a real browser: the script runs under its own policy, and nothing in the texts does."""
    texts(2, NASTY, ("golden", "aligned", "tuned", "base"))
    assert run(monkeypatch)[0] == 0
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    words += ["--disable-quic", "--no-first-run", f"--user-data-dir={aligned / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*words, f"{report.PAGE.resolve().as_uri()}#a1/ad/0"], capture_output=True, text=True, timeout=60
    )
    said = Page(done.stdout)
    assert "2 of 2" in said.text, "opened at the record that the address names"
    assert NASTY in said.text
    cards = [a.get("class") for tag, a in said.elements if tag == "article"]
    assert cards == ["card golden", "card aligned", "card tuned", "card base"]
    assert "owned" not in re.findall(r"<title>(.*?)</title>", done.stdout)[0]
    assert not [tag for tag, _ in said.elements if tag == "img"]
