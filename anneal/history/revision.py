"""What a revision holds and what the working tree holds, metrics, params, prompts and data, and how they differ.

Git is only read. Without a repository, or without the revision, there is still a snapshot: an empty one whose note
says why.
"""

from __future__ import annotations

import configparser
import contextlib
import difflib
import json
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anneal import files
from anneal.errors import UserError
from anneal.history import dvc_lock
from anneal.params import PARAMS
from anneal.systems import SYSTEMS

METRICS = "reports/metrics"
COMMITS = 200  # as far back as a history is read


@dataclass(frozen=True)
class Snapshot:
    """One state of the project; `note` says in a line why there is nothing to compare with."""

    name: str
    note: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)  # "compare", "judge/base", ... -> what the file holds
    params: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)  # path -> text
    lock: dict[str, str] = field(default_factory=dict)  # path of an output -> md5, by dvc.lock

    def metric(self, *keys: str) -> Any:
        """A value deep in the metrics; None where a part of the way is missing, as before a stage has run."""
        found: Any = self.metrics
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    @property
    def systems(self) -> tuple[str, ...]:
        """Whose texts are compared; an aligned model is among them only where preferences were learnt."""
        there = "aligned" in (self.metric("compare", "overall") or {})
        return tuple(name for name in SYSTEMS if there or name != "aligned")

    @property
    def shipped(self) -> str:
        """The model that would go out: what training ends with."""
        return "aligned" if "aligned" in self.systems else "tuned"


def _git(*words: str) -> str | None:
    """What git prints, or None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _collect(name: str, paths: Iterable[str], read: Callable[[str], str]) -> Snapshot:
    """Sort the files of a state into metrics, params and prompts; of the lock, the outputs."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    snapshot = Snapshot(name)
    for path in sorted(paths):
        try:
            if path.startswith(f"{METRICS}/") and path.endswith(".json"):
                snapshot.metrics[path[len(METRICS) + 1 : -5]] = json.loads(read(path))
            elif path.startswith("prompts/"):
                snapshot.prompts[path] = read(path)
            elif path == str(PARAMS):
                snapshot.params.update(YAML(typ="safe", pure=True).load(read(path)) or {})
            elif path == str(dvc_lock.LOCK):
                for entry in dvc_lock.parse(read(path)).values():
                    snapshot.lock.update(entry.outs)
        except (ValueError, YAMLError) as err:
            raise UserError(f"{path}: unreadable in {name}: {str(err).splitlines()[0]}; `dvc repro` makes it") from None
    return snapshot


def here() -> Snapshot:
    """The working tree."""
    files = [PARAMS, dvc_lock.LOCK, *Path(METRICS).rglob("*.json"), *Path("prompts").rglob("*.md")]
    return _collect("here", (p.as_posix() for p in files if p.is_file()), lambda p: Path(p).read_text("utf-8"))


def at(revision: str) -> Snapshot:
    """A revision of git, by any name git knows."""
    if _git("rev-parse", "--is-inside-work-tree") is None:
        return Snapshot(revision, "no git repository here, so there is nothing to compare with")
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:  # an experiment of DVC is a ref under its own folder
        refs = (_git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps/") or "").splitlines()
        commit = next((ref.split()[1] for ref in refs if ref.split()[0].rsplit("/", 1)[-1] == revision), None)
    if commit is None and _git("rev-parse", "--verify", "--quiet", "HEAD") is None:
        return Snapshot(revision, "first run: this repository holds no commit to compare with")
    if commit is None:
        return Snapshot(revision, f"{revision} is no revision of this repository; name one: make report BASE=HEAD")
    commit = commit.strip()
    wanted = (str(PARAMS), str(dvc_lock.LOCK), METRICS, "prompts")
    listed = _git("ls-tree", "-r", "-z", "--name-only", commit, "--", *wanted) or ""
    found = _collect(
        f"{revision} ({commit[:10]})", filter(None, listed.split("\0")), lambda p: _git("show", f"{commit}:./{p}") or ""
    )
    note = "" if found.metrics else f"first run: {found.name} holds no metrics to compare with"
    return Snapshot(found.name, note, found.metrics, found.params, found.prompts, found.lock)


def head() -> str | None:
    """The commit that the working tree stands on. Not whether it was edited since: dvc.lock's hash tells that."""
    found = _git("rev-parse", "--verify", "--quiet", "HEAD")
    return found.strip() if found else None


def history(path: str) -> list[str]:
    """A file as each of the last commits of any branch has it that changed it, experiments of DVC included."""
    commits = (_git("log", "--all", "--format=%H", f"-n{COMMITS}", "--", path) or "").split()
    found = (_git("show", f"{commit}:./{path}") for commit in commits)
    return [text for text in found if text]


def _cache() -> Path:
    """Where DVC keeps what it has made; cache.dir of its settings moves it."""
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error):
        settings.read([".dvc/config", ".dvc/config.local"], "utf-8")
    return Path(".dvc", settings.get("cache", "dir", fallback="cache").strip("\"'"), "files", "md5")


def data(snapshot: Snapshot, path: str) -> list[Any] | None:
    """The rows of a data file at a revision, from the cache by the md5 in its lock; None where they are not kept."""
    name = snapshot.lock.get(path, "")
    file = _cache() / name[:2] / name[2:]
    try:
        return files.read(file) if name and file.is_file() else None
    except UserError:
        return None


def rows(path: str) -> list[Any] | None:
    """The rows of a data file of the working tree; None where it is not there."""
    return files.read(path) if Path(path).is_file() else None


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as `a.b.c` -> value; a list is a value."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of what differs, in key order; what one side does not hold is None."""
    before, after = flat(old), flat(new)
    keys = sorted(before.keys() | after.keys())
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def rejudged(old: Snapshot, new: Snapshot) -> bool:
    """Whether another judge (model, settings or rubric) gave the scores: such numbers have no difference."""
    ids = [(snapshot.metrics.get("judge/tuned") or {}).get("judge_ids") for snapshot in (old, new)]
    return bool(ids[0]) and ids[0] != ids[1]


def prompt_diff(old: Snapshot, new: Snapshot) -> dict[str, str]:
    """Unified diffs of the prompts of the active recipe, by path."""
    folder = f"prompts/{new.params.get('recipe', '')}/"
    found = {}
    for path in sorted(p for p in old.prompts.keys() | new.prompts.keys() if p.startswith(folder)):
        before, after = (snapshot.prompts.get(path, "").splitlines() for snapshot in (old, new))
        found[path] = "\n".join(difflib.unified_diff(before, after, old.name, new.name, lineterm="", n=2))
    return {path: diff for path, diff in found.items() if diff}


# Files of another revision or experiment: those of git from git, those of DVC from its cache or a remote.

_NAMED = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(\S+) ([0-9a-f]{40})")


def experiments() -> dict[str, str]:
    """The experiments of DVC, name -> commit; git alone lists them, in a hundredth of the time that DVC takes."""
    words = ["git", "for-each-ref", "--format=%(refname) %(objectname)", "--sort=creatordate", "refs/exps"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return {}
    return {m[1]: m[2] for m in map(_NAMED.fullmatch, done.stdout.splitlines()) if m}


class Old:
    """One revision by any name that git or DVC knows. Raises UserError for a name that neither does."""

    def __init__(self, name: str) -> None:
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc.scm import SCMError

        self.name = name
        try:
            # Experiments on several revisions may share a name: the newest is meant.
            # The remotes of today: a revision knows only those that were there in its time.
            config = {key: Repo().config[key] for key in ("core", "remote")}
            self._files: Any = DVCFileSystem(rev=experiments().get(name, name), config=config)
            self.revision = str(self._files.repo.get_rev())
        except (DvcException, SCMError) as err:
            said = str(err).splitlines()[0]
            raise UserError(f"{name}: {said}; `git log` and `dvc exp list --all-commits` say what there is") from None

    def text(self, path: str) -> str:
        try:
            found: str = self._files.read_text(path, encoding="utf-8")
        except FileNotFoundError:
            raise UserError(
                f"{self.name} ({self.revision[:10]}): {path} is neither in the cache nor in a remote; `dvc fetch "
                "--all-commits` where one has it (an experiment: `dvc exp pull`), or run it again"
            ) from None
        return found

    def has(self, path: str) -> bool:
        """Whether the revision knows the file, in the cache or not."""
        return bool(self._files.exists(path))

    def params(self) -> dict[str, Any]:
        """Those of the revision, read as DVC does."""
        from ruamel.yaml import YAML

        return dict(YAML(typ="safe", pure=True).load(self.text("params.yaml")) or {})

    def rows(self, path: str) -> list[Any]:
        return [json.loads(line) for line in self.text(path).split("\n") if line.strip()]
