import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stages import report
from stages.lib import evidence, process, revision, verdict
from stages.lib.revision import Snapshot

NASTY = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & | </script>"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def column(score: float, strict: float, **more: Any) -> dict[str, Any]:
    ends = {"score": [score - 0.1, score + 0.1], "strict": [0.1, 0.9], "all_facts": [None, None], "stop_rate": [0.8, 1]}
    base = {
        "n": 4,
        "n_scored": 4,
        "score": score,
        "strict": strict,
        "all_facts": strict,
        "stop_rate": 1.0,
        "name": 1.0,
        "facts": 0.5,
    }
    return {**base, "intervals": ends, "bounds": [score - 1, score + 1], **more}


def gap(mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"n": 4, "clusters": 2, "mean": mean, "low": low, "high": high, "se": 0.1, "p": 0.25, "detectable": 0.4}


def preset() -> dict[str, Any]:
    figures = {"strict": gap(0.9, 0.8, 1.0), "rouge_l": gap(0.7, 0.6, 0.8), "distinct_2": 0.31, "distinct_4": 0.52}
    return {**figures, "runs": 1, "self_bleu": 44.5, "overrun": gap(0.0, 0.0, 0.0), "stopped": gap(1.0, 1.0, 1.0)}


def style() -> dict[str, Any]:
    """Texts written as two writers; the first is as near to himself as his noise is, and far from the second."""
    near = {"n": 4, "words": 0.01, "words_noise": 0.02, "auc": 0.55, "type_token": 0.4}
    far = {**near, "words": 0.33, "auc": 0.99}
    writers = {"Li": {"Li": near, "Wu": far}, "Wu": {"Li": far, "Wu": near}}
    return {"n": 8, "authors": writers, "copied": {"n": 8, "median": 4.0, "p95": 9.0, "longest": 12}}


def metrics() -> dict[str, Any]:
    """What a sound run leaves; small, but of the shape that the stages write."""
    systems = {"golden": column(4.5, 1.0), "tuned": column(4.0, 0.75), "base": column(1.5, 0.0)}
    best = {"golden": 2, "tuned": 1, "base": 0, "tie": 1, "n": 4}
    block = {
        **systems,
        "difference": gap(2.5, 2.2, 2.8) | {"p_holm": 0.5},
        "to_golden": gap(-0.5, -1, 0.1),
        "best": best,
    }
    share = {"n": 4, "clusters": 2, "mean": 0.75, "se": 0.1, "low": 0.5, "high": 0.9}
    rules = {"strict": share, "all_facts": share, "type": share, "by_type": {}}
    names = ("golden", "tuned", "base")
    found = {
        "compare": {
            "overall": systems, **{key: block[key] for key in ("difference", "to_golden", "best")},
            "by_type": {"ad": block, "note": block}, "score_kind": "model score", "clusters": 2,
            "judge_ids": {"ad": "j1"}, "controls": {"swapped": {**share, "mean": 0.0}},
        },
        "evaluate": {
            "n": 4, "rules": dict.fromkeys(names, rules), "controls": {"swapped": {**share, "mean": 0.0}},
            "stops": {name: {"stopped": share, "overrun": share} for name in names},
            "copies": {name: {"near": share, "exact": share} for name in names},
            "likelihood": {"tuned": {"bits_per_byte": 0.31}, "base": {"bits_per_byte": 1.5}},
            "accepted": {"strict": {**share, "mean": 1.0}, "type": share},
            "decoding": {"tuned": {"greedy": preset(), "sample": {**preset(), "runs": 3, "less_first": {
                "strict": gap(-0.05, -0.1, 0.02), "rouge_l": gap(-0.2, -0.3, -0.1), "stopped": gap(0, None, None)}}}},
            "layouts": {name: {"strict": share, "mended": share, "components": 0.8} for name in names},
            "verses": {name: {"rhyme": {**share, "mean": 0.625}, "unknown": 7} for name in names},
            "styles": {name: style() for name in names},
        },
        "judge/tuned": {"n": 4, "outcomes": {"ok": 3, "parse_error": 1}, "judge_ids": {"ad": "j1"}},
        "accept": {
            "n": 4, "accepted": {**share, "mean": 1.0}, "first": share, "none": {"n": 0, "share": 0.0},
            "rungs": {
                "constrained": {"open": 0, "candidates": 0, "accepted": 0, "share": 0.0},
                "first": {"open": 4, "candidates": 4, "accepted": 3, "share": 0.75},
                "temperature 0.3": {"open": 1, "candidates": 2, "accepted": 1, "share": 0.25},
            },
            "attempts": {"p50": 1, "p95": 3}, "tokens": 100, "tokens_per_accepted": 25.0,
            "rejections": {"length": 1, "type": 2},
        },
        "generate": {
            "n": 40, "pii": {"found": {"email": 2, "id_card": 1}, "texts": 2, "of": 14},
            "essays": {"documents": 3, "chunks": 14, "short": 1, "dropped": {"tables": 2}},
        },
        "clean": {"n": 40, "failing": 0},
        "filter": {
            "n": 40, "kept": 30, "dropped": {"type": 6, "density": 4}, "types": {"ad": {"n": 20, "kept": 15}},
            "features": {"length": {"p5": 2.0, "p5_kept": 2.0, "p50": 3.0, "p50_kept": 3.0, "p95": 4.0, "p95_kept": 3.5,
                                    "ks": 0.25, "mean": 3.0}, "rare": {}},
            "density": {
                "n": 34, "percentile": 10.0, "threshold": -8.5, "features": ["length"],
                "curve": {"p10": {"threshold": -8.5, "kept": 30, "least": {"ad": 0.7}},
                          "p2": {"threshold": -9.0, "kept": 33, "least": {"ad": 0.9}}},
                "names": {"colour": {"total_variation": 0.125, "names": {
                    "red": {"n": 30, "kept": 29, "share": 0.9, "share_kept": 0.97, "retention": 0.97, "flagged": False},
                    "blue": {"n": 4, "kept": 1, "share": 0.1, "share_kept": 0.03, "retention": 0.25, "flagged": True},
                }}},
                "lowest_kept": [{"id": "a1/ad/0", "log_prob": -8.4, "text": "A text that just stays."}],
                "highest_dropped": [{"id": "a2/ad/0", "log_prob": -8.6, "text": "A long text. " * 99}],
            },
        },
        "format": {
            "rows": 29, "over_length": {"rows": 0, "share": 0.0}, "tasks": {},
            "masks": {"rows": 29, "masked": 29, "stop_learnt": 29},
            "tokens": {"prompt": {"p50": 12, "max": 20}, "completion": {"p50": 40, "max": 90}},
            "budget": {"fields": {"system": 100, "user": 200, "template": 100, "completion": 1600, "total": 2000},
                       "repeated": 0, "warnings": ["one wording only: write more into wordings.md"]},
        },
        "split": {
            "records": {"train": 20, "validation": 5, "test": 4},
            "certificate": {"shared_items": 0, "crossing_pairs": 0, "near_duplicate": 0.7,
                            "test_in_train": {"jaccard": 0.4, "alike": ["a/1", "b/1"], "containment": 0.5}},
        },
        "train": {"steps": 30, "validation_loss": {"best": 0.51}, "tokens": {"learnt": 1100},
                  "parameters": {"trainable": 100_000}},
        "merge": {"prompts": 8, "largest_difference": 0.00002, "tolerance": 0.001, "greedy_match": 1.0},
    }  # fmt: skip
    # Through JSON, so that the parts above are shared by nobody.
    copied: dict[str, Any] = json.loads(json.dumps(found))
    return copied


PARAMS: dict[str, Any] = {
    "recipe": "toy", "seed": 1, "types": {"ad": "An ad", "note": "A note"}, "generate": {"pii": "mask"},
    "train": {"lr": 0.001, "epochs": 12, "batch_size": 4, "accumulation": 1, "packing": None},
    "accept": {"checks": ["type", "length"], "temperatures": [0.3]}, "filter": {"density": {"log": ["length"]}},
    "answer": {"presets": {"greedy": {}, "sample": {}}}, "privacy": {"local_only": True},
}  # fmt: skip


def write(path: str, value: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")


def rows(path: str, values: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(value) + "\n" for value in values))


def texts(n: int, words: str) -> None:
    """The data files behind the side-by-side browser."""
    ids = [f"a{i}/ad/0" for i in range(n)]
    prompt = [{"role": "user", "content": f"Write an ad. {words}"}]
    rows("data/test.jsonl", [{"id": i, "item": i[:2], "type": "ad", "prompt": prompt} for i in ids])
    checks = [
        {"id": i, "system": s, "type": "ad", "text": words, "strict": s != "base", "all_facts": True, "stopped": True,
         "checks": {"type": s != "base", "strict": s != "base"}, "found": [f"ingredients:{words}"]}
        for s in evidence.SYSTEMS for i in ids
    ]  # fmt: skip
    rows("data/checks.jsonl", checks)
    dims = {"facts": {"score": 3, "quote": words, "reason": words}}
    for system in evidence.SYSTEMS:
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
    # Nobody has voted: tests/test_blind.py has the section of people.
    assert heads == [name.lower().replace(" ", "-") for name in report.SECTIONS if name != "People"]
    sentence = "tuned is better than base by 2.50 [2.20, 2.80] (model score, 1 to 5; n = 4 in 2 items, 95% interval)"
    assert sentence in said.text
    assert f"**{sentence}**" in summary
    sound = ("0 items on two sides", "differ by at most 2e-05", "6 type, 4 density", "An ad", "29 of 29 rows")
    more = ("in all 100.0%", "less greedy", "unknown line ends", "14 chunks", "masked (generate.pii: mask)")
    least = ("few steps: 60", "one wording only", "total variation 12.5%", "the 1 lowest kept", "4 validation prompts")
    for words in (*sound, *more, *least, "outbound connections: not measured"):
        assert words in said.text, words


def test_what_a_recipe_has_no_figures_of_is_left_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        "contract", "decoding", "kinds-of-text", "people",
    }  # fmt: skip
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
    rows(".work/times/stages.jsonl", [
        {"stage": "train", **last, "outbound": 7},
        {"stage": "train", **last, "outbound": 0},
        {"stage": "judge base", **last, "outbound": 0},
        {"stage": "merge", **last},
    ])  # fmt: skip
    with Path(".work/times/stages.jsonl").open("a") as log:
        log.write('{"stage": "spl')
    line = "outbound connections: 0, measured by the stages' last runs (2 of them)"
    code, page, _ = run(monkeypatch)
    assert code == 0
    assert line in Page(page).text
    assert line in capsys.readouterr().out.splitlines()
    with Path(".work/times/stages.jsonl").open("a") as log:
        log.write('\n{"stage": "split", "seconds": 1, "peak_mb": 9, "exit": 1, "outbound": 2}\n')
    code, page, summary = run(monkeypatch)
    assert "outbound connections: 2, measured" in Page(page).text
    assert "**Attention**: 2 connections left this machine although privacy.local_only is true" in summary
    write("params.yaml", {**PARAMS, "privacy": {"local_only": False}})
    code, page, summary = run(monkeypatch)
    assert "connections" not in page + summary


def test_nothing_has_run_yet(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, page, summary = run(monkeypatch)
    assert code == 0
    assert "Nothing is compared yet" in Page(page).text
    assert "Nothing is compared yet" in summary
    assert "data/test.jsonl and data/checks.jsonl are not here" in Page(page).text


def test_every_lack_of_a_base_is_one_clear_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert Page(page).text.count("the same") >= 3
    assert "Params: the same." in summary
    assert "Metrics: the same." in summary
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
    found = {row[0]: row[3] for row in process.numbers(revision.here(), revision.at("main"))}
    assert found == {"compare.overall.tuned.score": "another judge", "compare.overall.tuned.strict": "-0.25"}
    assert "was judged by another judge" in run(monkeypatch, "main")[1]


def test_same_inputs_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(project)
    first = run(monkeypatch, "main")
    write(".work/times/stages.jsonl", '{"stage": "train", "seconds": 61.5, "peak_mb": 900, "exit": 0}\n')
    assert run(monkeypatch, "main") == first


def test_times_are_told_in_the_terminal(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(".work/times/stages.jsonl", [
        {"stage": "train", "seconds": 9.0, "peak_mb": 900, "exit": 0},
        {"stage": "train", "seconds": 61.5, "peak_mb": 900, "exit": 0},
        {"stage": "merge", "seconds": 5.0, "peak_mb": 900, "exit": 1},
    ])  # fmt: skip
    run(monkeypatch)
    said = capsys.readouterr().out
    assert "train 62 s" in said
    assert "merge" not in said
    assert "file://" in said


def test_markup_in_texts_is_shown_and_never_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(project)
    write("params.yaml", {**PARAMS, "recipe": NASTY, "types": {"ad": NASTY}, "model": {"name": NASTY}, NASTY: NASTY})
    found = metrics()
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
    write("reports/plots/samples.tsv", f"step\tn\t{NASTY}\n10\t4\t0.5\n")
    for name, value in found.items():
        write(f"reports/metrics/{name}.json", value)
    texts(2, NASTY)
    code, page, summary = run(monkeypatch, "main")
    assert code == 0
    said = Page(page)
    assert said.text.count(NASTY) > 20
    scripts = [attributes for tag, attributes in said.elements if tag == "script"]
    assert [s.get("id") for s in scripts] == ["rows", "labels", None]
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
    shown = re.search(r"(\d+) of 900 records fit this page", Page(page).text)
    assert shown
    assert 50 < int(shown[1]) < 900


def test_the_reasons_go_before_the_records(project: Path) -> None:
    texts(10, "word " * 50)
    whole, n = evidence.browser()
    assert whole[0]["systems"]["tuned"]["dims"]["facts"] == [3, "word " * 50, "word " * 50]
    assert n == 10
    size = len(json.dumps(whole).encode())
    less, n = evidence.browser(size - 1)
    assert n == len(less) == 10
    assert less[0]["systems"]["tuned"]["dims"]["facts"] == [3, "word " * 50, ""]
    least, _ = evidence.browser(size // 2)
    assert least[0]["systems"]["tuned"]["dims"]["facts"] == [3, "", ""]


def sound(**edits: Any) -> Snapshot:
    """The sound run with one metric set: `compare__overall__tuned__stop_rate=0.5`."""
    found = metrics()
    for place, value in edits.items():
        *way, last = place.split("__")
        target: Any = found
        for key in way:
            target = target[key]
        target[last] = value
    return Snapshot("here", "", found, PARAMS)


def test_a_sound_run_raises_no_alert() -> None:
    assert verdict.alerts(sound(), sound()) == []


@pytest.mark.parametrize(
    ("kind", "words", "edits"),
    [
        ("bad", "tuned: 1 of 4 texts have no score (1 parse_error)", {"compare__overall__tuned__n_scored": 3}),
        ("bad", "golden: 4 of 4 texts have no score", {"compare__overall__golden__n_scored": 0}),
        ("bad", "2.5% of tuned answers do not stop", {"compare__overall__tuned__stop_rate": 0.975}),
        ("bad", "leak: 2 items are on two sides", {"split__certificate__shared_items": 2}),
        ("bad", "leak: 7 near-duplicates cross", {"split__certificate__crossing_pairs": 7}),
        ("bad", "3 records were longer than format.max_length", {"format__over_length": {"rows": 3}}),
        ("bad", "50.0% of the control 'swapped' pass strict", {"compare__controls": {"swapped": {"mean": 0.5}}}),
        ("bad", "6.0% of the control 'other' pass strict", {"compare__controls": {"other": {"mean": 0.06}}}),
        ("note", "'other' pass strict: it sees the form", {"compare__controls": {"other": {"mean": 0.96}}}),
        ("bad", "2 of 4 answers pass accept.checks on no rung", {"accept__none": {"n": 2, "share": 0.5}}),
        (
            "bad",
            "differential missingness: 9 of",
            {"compare__missing": {"sentence": "differential missingness: 9 of 20"}},
        ),
        ("note", "golden scores at the top", {"compare__overall__golden__score": 4.95}),
        ("note", "it does not see persuasion", {"compare__score_kind": "rule score"}),
    ],
)
def test_alerts(kind: str, words: str, edits: dict[str, Any]) -> None:
    now = sound(**edits)
    found = verdict.alerts(now, now)
    assert [name for name, _ in found] == [kind]
    assert words in found[0][1]


def test_alert_of_another_recipe() -> None:
    old = Snapshot("main", "", metrics(), {**PARAMS, "recipe": "other"})
    assert verdict.alerts(sound(), old) == [("note", "main holds the recipe other: its numbers are of other texts")]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (gap(2.5, 2.2, 2.8), "tuned is better than base by 2.50 [2.20, 2.80]"),
        (gap(-0.5, -0.9, -0.1), "tuned is worse than base by 0.50 [0.10, 0.90]"),
        (gap(0.1, -0.2, 0.4), "No difference shown between tuned and base: +0.10 [-0.20, +0.40]"),
        (gap(0.0, 0.0, 0.0), "No difference shown"),
        (
            gap(0.7, None, None),
            "tuned − base is +0.70 (model score, 1 to 5; n = 4 in 2 items: too few for an interval)",
        ),
        (
            gap(0.7, None, None) | {"reason": "no variance: all clusters say the same"},
            "tuned − base is +0.70 (model score, 1 to 5; n = 4 in 2 items: no variance: all clusters say the same)",
        ),
        (
            gap(0.01, -0.02, 0.04) | {"state": "equivalent", "margin": 0.1},
            "tuned and base are as good as each other, within ±0.1: +0.01 [-0.02, +0.04]",
        ),
        ({**gap(0, None, None), "mean": None}, "Nothing is compared yet"),
    ],
)
def test_verdict_says_what_the_interval_allows(found: dict[str, Any], words: str) -> None:
    assert verdict.verdict(sound(compare__difference=found)).startswith(words)


def test_an_open_verdict_says_what_would_have_been_seen() -> None:
    said = verdict.verdict(sound(compare__difference=gap(0.1, -0.2, 0.4) | {"state": "open", "detectable": 0.45}))
    assert said.endswith("; a true one of 0.45 would show 4 times in 5")


def test_a_broken_metrics_file_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("reports/metrics/compare.json", '{"overall": ')
    assert run(monkeypatch)[0] == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("report: reports/metrics/compare.json: unreadable in here")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_browser_shows_texts_of_models_as_text(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real page in a real browser: the script runs under its own policy, and nothing in the texts does."""
    texts(2, NASTY)
    assert run(monkeypatch)[0] == 0
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    words += ["--disable-quic", "--no-first-run", f"--user-data-dir={project / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*words, f"{report.PAGE.resolve().as_uri()}#a1/ad/0"], capture_output=True, text=True, timeout=60
    )
    said = Page(done.stdout)
    assert "2 of 2" in said.text, "opened at the record that the address names"
    assert NASTY in said.text
    assert [a.get("class") for tag, a in said.elements if tag == "article"] == [
        "card golden",
        "card tuned",
        "card base",
    ]
    assert "owned" not in re.findall(r"<title>(.*?)</title>", done.stdout)[0]
    assert not [tag for tag, _ in said.elements if tag == "img"]
