"""rejudge: scores the stored answers of old experiments with the judge of the working tree.

    make rejudge EXPS="exp-a main~3"

Not a stage of DVC: it reads other revisions. Scores of two judges are not comparable, so old answers are judged again
with the prompts, rules and params of the working tree. The response cache answers every request that was paid before.
Where a revision holds judgements of another judge, the same texts under both judges measure the drift.

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
from anneal.history.revision import Old
from anneal.judging import grading, rubric
from anneal.judging.grading import BEST, WORST, Judge
from anneal.records import Judgement, Metrics, Record, answered
from anneal.stats import bradley_terry, intervals, judge_drift, missing, paired
from anneal.stats.paired import scored
from anneal.systems import MODELS, SYSTEMS

OUT = Path("reports/rejudged.json")
Texts = dict[str, list[Record]]  # system -> the texts to judge
Judgements = dict[str, list[Judgement]]  # by system


def declared(judge: Judge, recipe: str, rules: facts.Rules, types: dict[str, str], seed: int) -> None:
    """What is read of params.yaml, checked as a stage's own."""


def texts(read: Callable[[str], list[Any]]) -> Texts:
    """What is to be judged. UserError where a record has no answer."""
    records: list[Record] = read("data/test.jsonl")
    found = {
        system: texts for system in ("golden", *MODELS) if (texts := answered(system, records, read, surplus=True))
    }
    return {system: [_with_text(record, texts[record["id"]]) for record in records] for system, texts in found.items()}


def _with_text(record: Record, text: str) -> Record:
    """What the judge is shown of a record, with another text."""
    return {"id": record["id"], "item": record["item"], "type": record["type"], "facts": record["facts"], "text": text}


class Today:
    """The judge of the working tree, and what it says of the answers there."""

    def __init__(self) -> None:
        raw = params.load()
        self.values = params.pick(declared, values=raw)
        self.recipe, self.seed, self.judge = (self.values[key] for key in ("recipe", "seed", "judge"))
        self.tie, self.margin = (float(raw["compare"][key]) for key in ("tie", "margin"))
        rules = self.values["rules"]
        self.rubrics, self.known = rubric.folder(f"prompts/{self.recipe}/judge", rules), facts.known(rules)
        self.texts = texts(files.read)
        self.rows = self.judged(self.texts)

    def judged(self, given: Texts) -> Judgements:
        types = self.values["types"]
        kinds = {text["type"] for part in given.values() for text in part}
        if absent := sorted(kinds - (self.rubrics.keys() & types.keys())):
            raise UserError(f"prompts/{self.recipe}/judge: no rubric names the type {absent[0]}; add it to one")
        return {s: grading.grade(part, self.rubrics, types, self.known, self.judge) for s, part in given.items()}

    def ids(self) -> dict[str, str]:
        types = self.values["types"]
        return {r.path.stem: grading.judge_id(self.judge, r, types, self.known) for r in self.rubrics.values()}


def column(rows: Sequence[Judgement]) -> Metrics:
    """One system: n, n_scored, mean with its interval over items, and the mean if failures were worst or best."""
    scores = [scored(row) for row in rows]
    valid = [(score, row["item"]) for score, row in zip(scores, rows, strict=True) if score is not None]
    mean = intervals.mean([score for score, _ in valid], [item for _, item in valid]).row()
    ends = missing.bounds(scores, WORST, BEST)
    return {
        **mean,
        "n": len(rows),
        "n_scored": len(valid),
        "bounds": ends or [None, None],
        "reason": intervals.why(mean),
    }


def alike(now: Sequence[Record], then: Sequence[Record]) -> set[str]:
    """The ids whose type and facts are the same on both sides: an answer to another sheet answers another question."""
    ours = {text["id"]: (text["type"], text["facts"]) for text in now}
    return {text["id"] for text in then if ours.get(text["id"]) == (text["type"], text["facts"])}


def experiment(name: str, today: Today) -> tuple[Metrics, list[Judgement]]:
    """One old revision: its columns, how far the working tree is from it, and what the new judge did to its scores;
    and the judgements of its tuned answers to what the working tree asks as well."""
    old = Old(name)
    if (recipe := old.params().get("recipe")) != today.recipe:
        raise UserError(f"{name}: of recipe {recipe}, the working tree is of {today.recipe}; make recipe NAME={recipe}")
    # A revision from before there was an aligned model does not name its file.
    then = texts(lambda path: old.rows(path) if old.has(path) or "aligned" not in path else [])
    before: Judgements = {system: old.rows(f"data/judgements/{system}.jsonl") for system in then}
    rows = today.judged(then)
    same = alike(today.texts["golden"], then["golden"])
    ours, theirs = ([row for row in part["tuned"] if row["id"] in same] for part in (today.rows, rows))
    gap = paired.difference(paired.matched(ours, theirs), today.seed, today.margin)
    gap |= {"state": paired.state(gap), "sentence": paired.sentence(gap)}
    gap["left_out"] = {**gap["left_out"], "other_record": len(then["golden"]) - len(same)}
    columns = {system: column(rows[system]) for system in then}
    moved = judge_drift.drift(before, rows, today.seed)
    return {"revision": old.revision, "n": len(then["golden"]), **columns, "to_now": gap, "drift": moved}, theirs


def standing(every: Mapping[str, Sequence[Judgement]], tie: float) -> Metrics:
    """Strengths of all systems under one judge, and the matrix of who beats whom, which always exists."""
    scores = {
        name: {row["id"]: score for row in rows if (score := scored(row)) is not None} for name, rows in every.items()
    }
    games = list(bradley_terry.scored(scores, {r["id"]: r["item"] for rows in every.values() for r in rows}, tie))
    return {**bradley_terry.strengths(games, list(every)), "matrix": bradley_terry.matrix(games)}


def rejudge(names: Sequence[str]) -> Metrics:
    today, exps = Today(), {}
    every: dict[str, Sequence[Judgement]] = dict(today.rows)
    for name in dict.fromkeys(names):
        print(f"rejudge: {name}", file=sys.stderr)
        exps[name], every[f"tuned of {name}"] = experiment(name, today)
    return {
        "judge_ids": today.ids(),
        "model": today.judge.model,
        "score_kind": today.judge.kind,
        "here": {system: column(rows) for system, rows in today.rows.items()},
        "exps": exps,
        "strengths": standing(every, today.tie),
    }


def show(found: Metrics) -> None:
    """The table and what the new judge did, for the terminal."""
    from rich.console import Console
    from rich.table import Table

    made = Table(title=f"{found['score_kind']} (1 to 5) of {found['model']}, the judge of the working tree, throughout")
    for name in ("", "n", *SYSTEMS, "tuned here - tuned then"):
        made.add_column(name, justify="right" if name else "left")
    for name, row in {"here": found["here"], **found["exps"]}.items():
        means = [row.get(system) or {"mean": None} for system in SYSTEMS]
        marks = ("-" if c["mean"] is None else f"{c['mean']:.2f} ({c['n_scored']})" for c in means)
        made.add_row(name, str(row["tuned"]["n"]), *marks, row["to_now"]["sentence"] if "to_now" in row else "")
    console = Console(width=None if Console().is_terminal else 160)
    console.print(made)
    lines = [f"{name}: {row['drift']['sentence']}" for name, row in found["exps"].items()]
    ranks = found["strengths"]
    each = (f"{name} {part['strength']:+.2f}" for name, part in ranks["systems"].items())
    said = "; ".join(part for part in (", ".join(each), ranks["reason"]) if part)
    console.print("\n".join([*lines, f"strengths (Bradley-Terry, log odds): {said}"]), highlight=False, markup=False)


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
        found = rejudge(names)
        files.write_json(OUT, found)
    except UserError as err:
        print(f"rejudge: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rejudge: stopped; what was paid for is kept, run again to go on", file=sys.stderr)
        return 130
    show(found)
    print(OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
