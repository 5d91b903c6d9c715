"""What a change costs: every section of params, every prompt folder and source file, and the stages that run again.

The table is the most that an edit can cost: an output with the same bytes as before stops the rerun earlier. All rows
are followed along dvc.yaml; the rows of ASKED are put to DVC itself as well, on stubs of the stages.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RECIPES, ROOT, load_yaml, pipeline, recipe_text

# DVC's own use of pygtrie.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

# A stub makes folders for models, as the stages do; its bytes differ on every run.
STUB = """for out in "$@"; do
  case $out in models/*) mkdir -p "$out"; out=$out/file ;; *) mkdir -p "$(dirname "$out")" ;; esac
  od -An -N16 -tx1 /dev/urandom > "$out"
done
"""

# What follows a change of: the aligned model, the rewards, the tuned model, all answers, the judge, the records.
ALIGNED = "rollout@aligned answer@aligned accept evaluate judge@aligned prefer compare"
ALIGN = f"align merge {ALIGNED}"
REWARDS = f"rollout@tuned judge@samples {ALIGN}"
TUNED = f"answer@tuned judge@tuned {REWARDS}"
LEARN = f"train reward {TUNED}"
ANSWERS = "answer@base answer@tuned answer@aligned accept evaluate judge@base judge@tuned judge@aligned prefer compare"
JUDGES = "judge@aligned judge@base judge@controls judge@golden judge@samples judge@tuned card prefer compare"
SPLIT = f"split audit judge@controls judge@golden card {LEARN} {ANSWERS}"
FORMAT = f"format {SPLIT}"
FILTER = f"filter reject {FORMAT}"
CLEAN = f"clean {FILTER}"
GENERATE = f"generate {CLEAN}"
BASE = f"base {FORMAT}"

PARAMS = {
    "accept.candidates": "accept evaluate compare",
    "align.method": ALIGN,
    "answer.decode.max_new_tokens": ANSWERS,
    "answer.presets": ANSWERS,
    "audit.ngram": f"audit reward {REWARDS}",
    "base.corpus": BASE,
    "base.steps": BASE,
    "card.items": "card",
    "clean.max_attempts": CLEAN,
    "compare.tie": "compare",
    "evaluate.metrics": "evaluate compare",
    "filter.density.percentile": FILTER,
    "filter.rules": FILTER,
    "format.max_length": FORMAT,
    "generate.items": GENERATE,
    "generate.per_item": GENERATE,
    "judge.model": JUDGES,
    "judge.controls": JUDGES,
    "judge.temperature": JUDGES,
    "merge.tolerance": f"merge {ALIGNED}",
    "model.name": BASE,
    "prefer.pairs": "prefer compare",
    "prefer.tie": "prefer compare",
    "processes": LEARN,
    "recipe": GENERATE,
    "reject.weak": f"reject {FORMAT}",
    "reward.epochs": f"reward {REWARDS}",
    "rewards.weights.stop": REWARDS,
    "rollout.prompts": REWARDS,
    "rules.foreign": FILTER,
    "rules.folder": FILTER,
    "seed": FILTER,
    "split.test": SPLIT,
    "teacher.model": GENERATE,
    "teacher.temperature": GENERATE,
    "threads": f"{LEARN} {ANSWERS}",
    "train.epochs": f"train {TUNED}",
    "train.lora.r": f"train {TUNED}",
    "train.lr": f"train {TUNED}",
    "train.seed": f"train {TUNED}",
    "types": GENERATE,
}

# `$` stands for the active recipe.
FILES = {
    "prompts/$/generate": GENERATE,
    "prompts/$/clean": CLEAN,
    "prompts/$/reject": f"reject {FORMAT}",
    "prompts/$/format": FORMAT,
    "prompts/$/judge": JUDGES,
    "prompts/$/prefer": "prefer compare",
    "data/raw/$/planted": "card",
    "data/raw/$/products.jsonl": GENERATE,
    "data/raw/$/offline": GENERATE,
    "data/raw/$/rules": FILTER,
    "data/raw/$/base": BASE,
    "models/shipped": BASE,
    "stages/base.py": BASE,
    "stages/generate.py": GENERATE,
    "stages/clean.py": CLEAN,
    "stages/filter.py": FILTER,
    "stages/reject.py": f"reject {FORMAT}",
    "stages/format.py": FORMAT,
    "stages/split.py": SPLIT,
    "stages/train.py": f"train {TUNED}",
    "stages/reward.py": f"reward {REWARDS}",
    "stages/rollout.py": REWARDS,
    "stages/align.py": ALIGN,
    "stages/merge.py": f"merge {ALIGNED}",
    "stages/answer.py": ANSWERS,
    "stages/accept.py": "accept evaluate compare",
    "stages/evaluate.py": "evaluate compare",
    "stages/judge.py": JUDGES.replace("prefer ", ""),
    "stages/audit.py": f"audit reward {REWARDS}",
    "stages/card.py": "card",
    "stages/prefer.py": "prefer compare",
    "stages/compare.py": "compare",
}

# What a module costs, and the modules under anneal/ that cost it.
MODULES = {
    f"base {GENERATE}": "errors files params privacy prompts stage",
    GENERATE: (
        "llm/client llm/concurrency llm/endpoint llm/offline_server llm/replay llm/request llm/response "
        "llm/response_cache llm/scheduler offline/phrase_teacher offline/rewrite offline/style_teacher "
        "records similarity sources/chunks sources/essays sources/markdown sources/pii sources/tables"
    ),
    FILTER: (
        "checks/density checks/density_fit checks/facts checks/features checks/impact checks/json_layout "
        "checks/text_checks checks/verse"
    ),
    BASE: (
        "fingerprint models/loading tiny/architecture tiny/documents tiny/grammar_corpus tiny/pretrain "
        "tiny/probes tiny/sheet_corpus"
    ),
    FORMAT: "dataset/chat_template dataset/encoding dataset/instructions dataset/token_budget",
    SPLIT: "dataset/leakage",
    LEARN: "training/launch training/loop training/lora",
    f"train {TUNED}": "training/samples",
    f"train reward {TUNED} {ANSWERS}": "decoding/generate",
    f"reward {TUNED} {ANSWERS}": "models/weights",
    f"{TUNED} {ANSWERS}": "decoding/batches",
    f"reward {REWARDS}": "models/reward_model preference/calibration training/preference_pairs training/reward_trainer",
    f"reward card {REWARDS}": "stats/agreement",
    f"audit reward card {REWARDS}": "stats/intervals",
    f"audit reward {REWARDS}": "preference/pair_flaws preference/shortcuts",
    REWARDS: "preference/reward_spread preference/rule_rewards",
    ALIGN: "training/dpo training/grpo training/lm_head training/preference_eval",
    f"merge {ALIGNED}": "models/lora_merge",
    ANSWERS: "decoding/presets decoding/search decoding/served",
    JUDGES: "judging/grading judging/rubric llm/blocks offline/rule_judge offline/stub_judges",
    f"evaluate {JUDGES}": "judging/controls",
    "accept evaluate compare": "decoding/constrained decoding/escalation",
    "card": "judging/detection judging/injected_defects",
    "card compare": "stats/repeats",
    "prefer compare": "judging/pairwise offline/pair_judge",
    "evaluate prefer compare": "systems",
    "compare": (
        "evaluation/alignment_effect evaluation/scoreboard stats/length_control stats/missing stats/paired "
        "stats/pairwise_summary stats/win_rates"
    ),
    "evaluate compare": (
        "evaluation/authors evaluation/copied_spans evaluation/decoding_variety evaluation/metrics "
        "evaluation/style evaluation/text_metrics"
    ),
}
FILES |= {f"anneal/{name}.py": cost for cost, names in MODULES.items() for name in names.split()}

ASKED = [
    "train.lr",
    "judge.model",
    "answer.decode.max_new_tokens",
    "rules.folder",
    "recipe",
    "split.test",
    "prompts/$/judge",
    "prompts/$/format",
    "anneal/judging/rubric.py",
    "data/raw/$/rules",
]


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 1
    if isinstance(value, list):
        return [*value, "other"]
    if isinstance(value, dict):
        return {**value, "other": "other"}
    return f"{value}-other"


def stand_in(folder: Path, path: str) -> None:
    """A source file, or a folder with one file, where the stubs need one."""
    target = folder / path
    if not Path(path).suffix:
        target = target / "file.md"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("one\n")


def sources(folder: Path) -> set[str]:
    stages = pipeline(folder).values()
    reads = set().union(*(stage.code | stage.data for stage in stages))
    return reads - set().union(*(stage.writes for stage in stages))


def stub(text: str) -> str:
    """dvc.yaml with every command replaced; DVC itself fills the `${...}` in the outs."""
    from dvc.utils.serialize import dumps_yaml, parse_yaml

    values = parse_yaml(text, "dvc.yaml")
    for body in values["stages"].values():
        stage = body.get("do", body)
        outs = [out for key in ("outs", "metrics", "plots") for out in stage.get(key, [])]
        stage["cmd"] = " ".join(["sh stub.sh", *(out if isinstance(out, str) else next(iter(out)) for out in outs)])
    return str(dumps_yaml(values))


def planned(folder: Path) -> set[str]:
    """The stages that DVC would run, and all that follows them."""
    from dvc.repo import Repo

    with contextlib.chdir(folder), Repo(folder) as repo:
        return {stage.addressing for stage in repo.reproduce(dry=True, force_downstream=True)}


@pytest.fixture(scope="module", autouse=True)
def _parsed_once() -> Iterator[None]:
    """DVC spends nearly all of a dry run on parsing the same dvc.yaml and dvc.lock in pure Python; once is enough."""
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml

    parse = _yaml.parse_yaml

    @functools.lru_cache(maxsize=32)
    def once(text: str, typ: str) -> Any:
        return parse(text, "", typ)

    def parse_yaml(text: str, path: str, typ: str = "safe") -> Any:
        return copy.deepcopy(once(text, typ)) if typ == "safe" else parse(text, path, typ)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_yaml, "parse_yaml", parse_yaml)
        patch.setattr(strictyaml, "parse_yaml", parse_yaml)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of stubs in which every stage has run."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("impact") / "checkout"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "stub.sh").write_text(STUB)
    (folder / "dvc.yaml").write_text(stub((ROOT / "dvc.yaml").read_text("utf-8")), "utf-8")
    shutil.copy(ROOT / "params.yaml", folder)
    for path in sources(ROOT):
        stand_in(folder, path)
    with contextlib.chdir(folder), Repo(folder) as repo:
        assert {stage.addressing for stage in repo.reproduce()} == set(pipeline())
    assert planned(folder) == set()
    return folder


def row(name: str) -> set[str]:
    return set({**PARAMS, **FILES}[name].split())


def change(folder: Path, key: str) -> None:
    """Another value for one key of params.yaml, and the source files that the new value may name."""
    from dvc.utils.serialize import dumps_yaml

    values = load_yaml(folder / "params.yaml")
    *sections, last = key.split(".")
    section = functools.reduce(lambda found, name: found[name], sections, values)
    section[last] = other(section[last])
    (folder / "params.yaml").write_text(dumps_yaml(values), "utf-8")
    for path in sources(folder):
        stand_in(folder, path)


def follow(first: set[str]) -> set[str]:
    """These stages and all stages that read what they write, directly or not."""
    stages, found = pipeline(), set(first)
    for _ in stages:  # as often as the longest way has stages
        made = set().union(*(stages[name].writes for name in found))
        found |= {name for name, stage in stages.items() if made & set(stage.deps)}
    return found


def test_the_map_is_in_the_order_of_the_flow() -> None:
    made: set[str] = set()
    everything = set().union(*(stage.writes for stage in pipeline().values()))
    checked, back = 0, set()
    for stage in pipeline().values():
        reads = set(stage.deps) & everything
        # One row of the map for both rollouts: the second comes after merge.
        back |= {(stage.name, path) for path in reads - made}
        checked += len(reads)
        made |= stage.writes
    assert back == {("rollout@aligned", "models/merged")}
    assert checked >= 25


@pytest.mark.parametrize("key", PARAMS)
def test_param(key: str, tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    change(tmp_path, key)
    before, after = pipeline(), pipeline(tmp_path)
    declared = {name for name, stage in before.items() if key.split(".")[0] in stage.params}
    moved = {name for name in before if after[name].deps != before[name].deps}
    assert follow(declared | moved) == row(key)


@pytest.mark.parametrize("name", FILES)
def test_file(name: str) -> None:
    path = name.replace("$", load_yaml(ROOT / "params.yaml")["recipe"])
    assert follow({stage.name for stage in pipeline().values() if path in stage.code | stage.data}) == row(name)


@pytest.mark.parametrize("name", ASKED)
def test_dvc_says_the_same(finished: Path, name: str) -> None:
    params = (finished / "params.yaml").read_text("utf-8")
    path = finished / name.replace("$", load_yaml(finished / "params.yaml")["recipe"])
    if name in PARAMS:
        change(finished, name)
    else:
        (path / "another.md" if path.is_dir() else path).write_text("two\n")
    try:
        assert planned(finished) == row(name)
    finally:  # a dry run leaves the rest of the checkout as it was
        (finished / "params.yaml").write_text(params, "utf-8")
        if path.is_dir():
            (path / "another.md").unlink()
        elif path.is_file():
            path.write_text("one\n")


def test_every_section_and_every_source_has_a_row() -> None:
    stages = pipeline().values()
    sections = set().union(*(stage.params for stage in stages))
    assert len(sections) >= 15
    assert {key.split(".")[0] for key in PARAMS} == sections
    recipe = load_yaml(ROOT / "params.yaml")["recipe"]
    assert {name.replace("$", recipe) for name in FILES} == sources(ROOT)


def test_what_is_no_change_runs_nothing(finished: Path) -> None:
    params = finished / "params.yaml"
    for path in sources(finished):
        (finished / path).touch()
    for path in ("anneal/report/alerts.py", "anneal/human/votes.py", "anneal/html.py", "commands/report.py"):
        (finished / path).parent.mkdir(parents=True, exist_ok=True)
        (finished / path).write_text("no stage of DVC\n")
    params.write_text("# another comment\n" + params.read_text("utf-8"), "utf-8")
    assert planned(finished) == set()


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_an_experiment_changes_one_line_and_runs_what_follows(finished: Path, tmp_path: Path) -> None:
    """The real command on the stubs: `dvc exp run -S train.lr=...` edits one line of params.yaml."""
    checkout = shutil.copytree(finished, tmp_path / "checkout")
    (checkout / ".dvc/config").write_text("[core]\n    analytics = false\n")
    shutil.copy(ROOT / ".gitignore", checkout)
    (checkout / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    git(checkout, "init", "--quiet")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "finished")
    words = [sys.executable, "-m", "dvc", "exp", "run", "-S", "train.lr=2e-5"]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"Running stage '([^']+)'", done.stdout)) == set(PARAMS["train.lr"].split())
    changed = git(checkout, "diff", "--unified=0", "params.yaml").splitlines()[5:]
    assert [line[0] for line in changed] == ["-", "+"]
    assert changed[1] == "+  lr: 2e-05"


def test_going_back_to_a_recipe_runs_nothing(finished: Path, tmp_path: Path) -> None:
    """The stubs write other bytes on every run: what is there again afterwards came out of the cache."""
    checkout = shutil.copytree(finished, tmp_path / "checkout")
    params = checkout / "params.yaml"
    here = params.read_text("utf-8")
    others = [text for text in (recipe_text(path.stem) for path in RECIPES) if text != here]
    assert others

    def repro() -> tuple[set[str], dict[str, bytes]]:
        for path in sources(checkout):
            stand_in(checkout, path)
        words = [sys.executable, "-m", "dvc", "repro"]
        done = subprocess.run(words, cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outs = set().union(*(stage.writes for stage in pipeline(checkout).values()))
        files = [f for out in outs for f in [checkout / out, *(checkout / out).rglob("*")] if f.is_file()]
        ran = set(re.findall(r"Running stage '([^']+)'", done.stdout))
        return ran, {str(f.relative_to(checkout)): f.read_bytes() for f in files}

    none, before = repro()
    assert none == set()
    params.write_text(others[0], "utf-8")
    away, between = repro()
    assert away == set(pipeline())
    assert between.keys() == before.keys()
    assert not set(between.values()) & set(before.values())
    params.write_text(here, "utf-8")
    assert repro() == (set(), before)
