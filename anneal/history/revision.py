"""Snapshots of a git revision and of the working tree (metrics, params, prompts, data) and their differences.

Git is only read. Without a repository, or for an unknown revision, the snapshot is empty and its note gives the reason.
Files in git are read from git; files under DVC are read from its cache, or from a remote by `Revision`.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
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
COMMITS = 200  # the newest commits that `history` reads: one `git show` each


@dataclass(frozen=True)
class Snapshot:
    """One state of the project; `note` is the reason, in one line, why there is nothing to compare with."""

    name: str
    note: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)  # "compare", "judge/base", ... -> content of the file
    params: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)  # path -> text
    lock: dict[str, str] = field(default_factory=dict)  # path of an output -> md5, from dvc.lock

    def metric(self, *keys: str) -> Any:
        """A nested value of the metrics; None where a key is missing, as before a stage has run."""
        value: Any = self.metrics
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def systems(self) -> tuple[str, ...]:
        """The systems whose texts are compared; `aligned` is one of them only where preferences were learnt."""
        has_aligned = "aligned" in (self.metric("compare", "overall") or {})
        return tuple(name for name in SYSTEMS if has_aligned or name != "aligned")

    @property
    def shipped(self) -> str:
        """The system of the final model: `aligned` where preferences were learnt, else `tuned`."""
        return "aligned" if "aligned" in self.systems else "tuned"


def _git(*arguments: str) -> str | None:
    """The stdout of a git command; None where it fails or git is not installed."""
    try:
        process = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return process.stdout.decode("utf-8", "replace") if process.returncode == 0 else None


def _collect(name: str, paths: Iterable[str], read: Callable[[str], str]) -> Snapshot:
    """A snapshot of the files at `paths`. UserError names a file that does not parse. Other paths are ignored."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    snapshot = Snapshot(name)
    for path in sorted(paths):
        try:
            if path.startswith(f"{METRICS}/") and path.endswith(".json"):
                metrics_name = path.removeprefix(f"{METRICS}/").removesuffix(".json")
                snapshot.metrics[metrics_name] = json.loads(read(path))
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
    """The snapshot of the working tree."""
    candidates = [PARAMS, dvc_lock.LOCK, *Path(METRICS).rglob("*.json"), *Path("prompts").rglob("*.md")]
    paths = [path.as_posix() for path in candidates if path.is_file()]
    return _collect("here", paths, lambda path: Path(path).read_text("utf-8"))


def _commit(revision: str) -> str | None:
    """The commit of a git revision or of an experiment of DVC; None for a name that is neither."""
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is not None:
        return commit.strip()
    # DVC stores an experiment as a ref that git does not resolve by its last part: refs/exps/<aa>/<rest>/<name>.
    listing = _git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps/") or ""
    for line in listing.splitlines():
        refname, commit = line.split()
        if refname.rsplit("/", 1)[-1] == revision:
            return commit
    return None


def at(revision: str) -> Snapshot:
    """The snapshot of a revision, by any name that git or DVC gives it; empty, with a note, where it cannot be read."""
    if _git("rev-parse", "--is-inside-work-tree") is None:
        return Snapshot(revision, "no git repository here, so there is nothing to compare with")
    commit = _commit(revision)
    if commit is None and _git("rev-parse", "--verify", "--quiet", "HEAD") is None:
        return Snapshot(revision, "first run: this repository holds no commit to compare with")
    if commit is None:
        return Snapshot(revision, f"{revision} is no revision of this repository; name one: make report BASE=HEAD")
    pathspecs = (str(PARAMS), str(dvc_lock.LOCK), METRICS, "prompts")
    listing = _git("ls-tree", "-r", "-z", "--name-only", commit, "--", *pathspecs) or ""
    paths = [path for path in listing.split("\0") if path]
    snapshot = _collect(f"{revision} ({commit[:10]})", paths, lambda path: _git("show", f"{commit}:./{path}") or "")
    if snapshot.metrics:
        return snapshot
    return dataclasses.replace(snapshot, note=f"first run: {snapshot.name} holds no metrics to compare with")


def head() -> str | None:
    """The commit of HEAD; None without one. Uncommitted edits do not show in it: the hashes of dvc.lock show them."""
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
    return commit.strip() if commit else None


def history(path: str) -> list[str]:
    """The text of a file in each of the newest COMMITS commits that changed it, newest first.

    All refs count, so that experiments of DVC are included.
    """
    commits = (_git("log", "--all", "--format=%H", f"-n{COMMITS}", "--", path) or "").split()
    texts = [_git("show", f"{commit}:./{path}") for commit in commits]
    return [text for text in texts if text]


def _cache() -> Path:
    """The folder of DVC's cached files by md5; `cache.dir` in its configuration moves it, relative to .dvc."""
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error):
        settings.read([".dvc/config", ".dvc/config.local"], "utf-8")
    return Path(".dvc", settings.get("cache", "dir", fallback="cache").strip("\"'"), "files", "md5")


def data(snapshot: Snapshot, path: str) -> list[Any] | None:
    """The rows of a data file at a revision, from the cache by the md5 in its lock; None where it is not cached."""
    md5 = snapshot.lock.get(path, "")
    file = _cache() / md5[:2] / md5[2:]
    try:
        return files.read(file) if md5 and file.is_file() else None
    except UserError:
        return None


def rows(path: str) -> list[Any] | None:
    """The rows of a data file of the working tree; None where there is none."""
    return files.read(path) if Path(path).is_file() else None


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as `a.b.c` -> value; a list is a value."""
    if not isinstance(value, dict):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every leaf that differs, in key order; None stands for a key that one side lacks."""
    before = flat(old)
    after = flat(new)
    keys = sorted(before.keys() | after.keys())
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def rejudged(old: Snapshot, new: Snapshot) -> bool:
    """Whether another judge (model, settings or rubric) gave the scores: their difference is then meaningless."""
    old_ids, new_ids = ((snapshot.metrics.get("judge/tuned") or {}).get("judge_ids") for snapshot in (old, new))
    return bool(old_ids) and old_ids != new_ids


def prompt_diff(old: Snapshot, new: Snapshot) -> dict[str, str]:
    """Unified diffs of the prompts of the active recipe, by path; unchanged prompts are left out."""
    folder = f"prompts/{new.params.get('recipe', '')}/"
    diffs = {}
    for path in sorted(path for path in old.prompts.keys() | new.prompts.keys() if path.startswith(folder)):
        before, after = (snapshot.prompts.get(path, "").splitlines() for snapshot in (old, new))
        diff = "\n".join(difflib.unified_diff(before, after, old.name, new.name, lineterm="", n=2))
        if diff:
            diffs[path] = diff
    return diffs


# ---- single files of a revision or an experiment, from git, the cache of DVC or its remote

# The ref of an experiment: the 40 hexadecimal digits of its baseline commit, split after two, then its name.
_EXPERIMENT_REF = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(\S+) ([0-9a-f]{40})")


def experiments() -> dict[str, str]:
    """The experiments of DVC, name -> commit; of equal names the newest. Empty without git or a repository.

    Git lists the refs in a hundredth of the time that `dvc exp list` takes.
    """
    listing = _git("for-each-ref", "--format=%(refname) %(objectname)", "--sort=creatordate", "refs/exps") or ""
    matches = (_EXPERIMENT_REF.fullmatch(line) for line in listing.splitlines())
    return {match[1]: match[2] for match in matches if match}


class Revision:
    """The files of one revision, by any name that git or DVC knows. UserError for a name that neither knows."""

    def __init__(self, name: str) -> None:
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc.scm import SCMError

        self.name = name
        try:
            # The remotes of the working tree: a revision names only those that were configured in its time.
            config = {key: Repo().config[key] for key in ("core", "remote")}
            # Experiments on several revisions may share a name; `experiments` holds the newest.
            self._files: Any = DVCFileSystem(rev=experiments().get(name, name), config=config)
            self.commit = str(self._files.repo.get_rev())
        except (DvcException, SCMError) as err:
            cause = str(err).splitlines()[0]
            raise UserError(
                f"{name}: {cause}; `git log` and `dvc exp list --all-commits` list the known names"
            ) from None

    def text(self, path: str) -> str:
        """The text of a file. UserError where it is neither in git, nor in the cache, nor in a remote."""
        try:
            text: str = self._files.read_text(path, encoding="utf-8")
        except FileNotFoundError:
            raise UserError(
                f"{self.name} ({self.commit[:10]}): {path} is neither in the cache nor in a remote; run `dvc fetch "
                "--all-commits` (an experiment: `dvc exp pull`) where a remote has it, else run the revision again"
            ) from None
        return text

    def exists(self, path: str) -> bool:
        """Whether the revision tracks the file, even where its content is not in the cache."""
        return bool(self._files.exists(path))

    def params(self) -> dict[str, Any]:
        """The params.yaml of the revision, in YAML 1.2 as DVC reads it."""
        from ruamel.yaml import YAML

        return dict(YAML(typ="safe", pure=True).load(self.text("params.yaml")) or {})

    def rows(self, path: str) -> list[Any]:
        """The rows of a JSON Lines file. UserError as for `text`."""
        return [json.loads(line) for line in self.text(path).split("\n") if line.strip()]
