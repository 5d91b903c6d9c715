"""rejudge: scores the stored answers of old experiments with the judge of the working tree.

    make rejudge EXPS="exp-a main~3"

Not a stage of DVC: it reads other revisions. Scores of two judges are not comparable, so old answers are judged again
with the prompts, rules and params of the working tree. A request that was paid for before is answered from the response
cache. Where a revision holds judgements of another judge, the same texts under both judges measure the drift.

reads   params.yaml, prompts/<recipe>/judge, data/raw/<recipe>/rules, data/test.jsonl, data/answers/, and of each
        revision params.yaml, data/test.jsonl, data/answers/, data/judgements/
writes  reports/rejudged.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anneal import files, params, privacy
from anneal.checks import facts
from anneal.errors import UserError
from anneal.history.revision import Revision
from anneal.judging import grading, rubric
from anneal.judging.grading import BEST, WORST, Judge
from anneal.records import Judgement, Metrics, Record, answered
from anneal.stats import bradley_terry, intervals, judge_drift, missing, paired
from anneal.stats.paired import scored
from anneal.systems import MODELS, SYSTEMS

OUT = Path("reports/rejudged.json")
INTERRUPTED = 130  # exit code of a command that Ctrl-C ended, by the convention of shells: 128 + SIGINT
TABLE_WIDTH = 160  # characters, where the output is not a terminal: rich then assumes 80 and would break the rows
Texts = dict[str, list[Record]]  # system -> the texts to judge
Judgements = dict[str, list[Judgement]]  # system -> judgements


def declared(judge: Judge, recipe: str, rules: facts.Rules, types: dict[str, str], seed: int) -> None:
    """The params that the command reads; `params.pick` validates them by this signature, as it does for a stage."""


def texts_by_system(read: Callable[[str], list[Any]]) -> Texts:
    """The texts of every system with answers, as the judge is shown them. UserError where a record has no answer."""
    records: list[Record] = read("data/test.jsonl")
    texts: Texts = {}
    for system in ("golden", *MODELS):
        answers = answered(system, records, read, surplus=True)
        if answers:
            texts[system] = [_with_text(record, answers[record["id"]]) for record in records]
    return texts


def _with_text(record: Record, text: str) -> Record:
    """The fields of a record that the judge is shown, with another text."""
    return {"id": record["id"], "item": record["item"], "type": record["type"], "facts": record["facts"], "text": text}


class WorkingTree:
    """The judge of the working tree, its params, and its judgements of the answers there."""

    def __init__(self) -> None:
        raw = params.load()
        self.values = params.pick(declared, values=raw)
        self.recipe, self.seed, self.judge = (self.values[key] for key in ("recipe", "seed", "judge"))
        self.tie, self.margin = (float(raw["compare"][key]) for key in ("tie", "margin"))
        rules = self.values["rules"]
        self.rubrics = rubric.folder(f"prompts/{self.recipe}/judge", rules)
        self.known = facts.known(rules)
        self.texts = texts_by_system(files.read)
        self.judgements = self.grade(self.texts)

    def grade(self, texts: Texts) -> Judgements:
        """Judge texts by system. UserError for a content type without a rubric."""
        types = self.values["types"]
        used_types = {text["type"] for system_texts in texts.values() for text in system_texts}
        absent = sorted(used_types - (self.rubrics.keys() & types.keys()))
        if absent:
            raise UserError(f"prompts/{self.recipe}/judge: no rubric names the type {absent[0]}; add it to one")
        return {
            system: grading.grade(system_texts, self.rubrics, types, self.known, self.judge)
            for system, system_texts in texts.items()
        }

    def judge_ids(self) -> dict[str, str]:
        """The id of the judge for each rubric file, by its stem."""
        types = self.values["types"]
        return {r.path.stem: grading.judge_id(self.judge, r, types, self.known) for r in self.rubrics.values()}


def score_summary(judgements: Sequence[Judgement]) -> Metrics:
    """One system: n, n_scored, mean with its interval over items, and the mean if failures were worst or best."""
    scores = [scored(row) for row in judgements]
    valid = [(score, row["item"]) for score, row in zip(scores, judgements, strict=True) if score is not None]
    mean = intervals.mean([score for score, _ in valid], [item for _, item in valid]).row()
    bounds = missing.bounds(scores, WORST, BEST)
    return {
        **mean,
        "n": len(judgements),
        "n_scored": len(valid),
        "bounds": bounds or [None, None],
        "reason": intervals.why(mean),
    }


def comparable_ids(texts: Sequence[Record], old_texts: Sequence[Record]) -> set[str]:
    """The ids with equal type and facts on both sides; answers written from other facts cannot be compared."""
    sources = {text["id"]: (text["type"], text["facts"]) for text in texts}
    return {text["id"] for text in old_texts if sources.get(text["id"]) == (text["type"], text["facts"])}


def judge_revision(name: str, tree: WorkingTree) -> tuple[Metrics, list[Judgement]]:
    """Judge the answers of one revision with the judge of the working tree.

    Returns its metrics (scores by system, the paired difference of the tuned answers to those of the working tree, the
    drift between its stored judgements and the new ones), and the new judgements of its tuned answers to records that
    the working tree holds as well. UserError for another recipe, or for a file that cannot be fetched.
    """
    revision = Revision(name)
    recipe = revision.params().get("recipe")
    if recipe != tree.recipe:
        raise UserError(f"{name}: of recipe {recipe}, the working tree is of {tree.recipe}; make recipe NAME={recipe}")

    def read(path: str) -> list[Any]:
        # A revision from before there was an aligned model does not track the file of its answers.
        return revision.rows(path) if revision.exists(path) or "aligned" not in path else []

    texts = texts_by_system(read)
    stored: Judgements = {system: revision.rows(f"data/judgements/{system}.jsonl") for system in texts}
    judgements = tree.grade(texts)
    ids = comparable_ids(tree.texts["golden"], texts["golden"])
    tuned_here = [row for row in tree.judgements["tuned"] if row["id"] in ids]
    tuned_there = [row for row in judgements["tuned"] if row["id"] in ids]
    difference = paired.difference(paired.matched(tuned_here, tuned_there), tree.seed, tree.margin)
    difference |= {"state": paired.state(difference), "sentence": paired.sentence(difference)}
    difference["left_out"] = {**difference["left_out"], "other_record": len(texts["golden"]) - len(ids)}
    metrics = {
        "revision": revision.commit,
        "n": len(texts["golden"]),
        **{system: score_summary(judgements[system]) for system in texts},
        "to_now": difference,
        "drift": judge_drift.drift(stored, judgements, tree.seed),
    }
    return metrics, tuned_there


def strengths(judgements: Mapping[str, Sequence[Judgement]], tie: float) -> Metrics:
    """Bradley-Terry strengths of all systems under one judge, and the matrix of pairwise win rates.

    The matrix always exists; strengths need games that connect all systems.
    """
    scores: dict[str, dict[str, float]] = {}
    items: dict[str, str] = {}
    for system, rows in judgements.items():
        scores[system] = {row["id"]: score for row in rows if (score := scored(row)) is not None}
        items |= {row["id"]: row["item"] for row in rows}
    games = list(bradley_terry.scored(scores, items, tie))
    return {**bradley_terry.strengths(games, list(judgements)), "matrix": bradley_terry.matrix(games)}


def rejudge(names: Sequence[str]) -> Metrics:
    """The content of reports/rejudged.json for the named revisions; each is judged once, in the given order."""
    tree = WorkingTree()
    experiments: dict[str, Metrics] = {}
    judgements: dict[str, Sequence[Judgement]] = dict(tree.judgements)
    for name in dict.fromkeys(names):
        print(f"rejudge: {name}", file=sys.stderr)
        experiments[name], judgements[f"tuned of {name}"] = judge_revision(name, tree)
    return {
        "judge_ids": tree.judge_ids(),
        "model": tree.judge.model,
        "score_kind": tree.judge.kind,
        "here": {system: score_summary(rows) for system, rows in tree.judgements.items()},
        "exps": experiments,
        "strengths": strengths(judgements, tree.tie),
    }


def show(metrics: Metrics) -> None:
    """Print the table of mean scores, then the drift of each revision and the strengths."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{metrics['score_kind']} (1 to 5) of {metrics['model']}, the judge of the working tree, throughout"
    )
    for heading in ("", "n", *SYSTEMS, "tuned here - tuned then"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in {"here": metrics["here"], **metrics["exps"]}.items():
        cells = [_mean_cell(row.get(system)) for system in SYSTEMS]
        table.add_row(name, str(row["tuned"]["n"]), *cells, row["to_now"]["sentence"] if "to_now" in row else "")
    console = Console(width=None if Console().is_terminal else TABLE_WIDTH)
    console.print(table)
    lines = [f"{name}: {row['drift']['sentence']}" for name, row in metrics["exps"].items()]
    ranking = metrics["strengths"]
    values = ", ".join(f"{system} {part['strength']:+.2f}" for system, part in ranking["systems"].items())
    summary = "; ".join(part for part in (values, ranking["reason"]) if part)
    lines.append(f"strengths (Bradley-Terry, log odds): {summary}")
    console.print("\n".join(lines), highlight=False, markup=False)


def _mean_cell(summary: Metrics | None) -> str:
    """`mean (number of scored texts)` of a system, or a hyphen."""
    if not summary or summary["mean"] is None:
        return "-"
    return f"{summary['mean']:.2f} ({summary['n_scored']})"


def main() -> int:
    from dotenv import load_dotenv

    parser = argparse.ArgumentParser(
        "rejudge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exps", nargs="+", metavar="exp", help="experiments of DVC or revisions of git")
    names = parser.parse_args().exps
    load_dotenv(files.root() / ".env")
    try:
        local_only = bool((params.load().get("privacy") or {}).get("local_only"))
        privacy.guard(local_only, UserError)
        if local_only:
            privacy.refuse_remote(files.root(), UserError)
        metrics = rejudge(names)
        files.write_json(OUT, metrics)
    except UserError as err:
        print(f"rejudge: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rejudge: stopped; paid responses are in the response cache, run again to go on", file=sys.stderr)
        return INTERRUPTED
    show(metrics)
    print(OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
