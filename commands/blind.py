"""blind: asks people which text is better, without naming the systems, and counts the votes.

    make blind N=40       writes a page of pairs to open or to send
    make label N=20       writes a page on which people score single texts with the judge's rubric
    make blind-serve      serves both pages on this machine and stores the votes
    make unblind          reads the key and counts the votes

Not a stage of DVC: votes come when people have time. A rater who has only the file exports the votes; they go to
data/human/.

reads   params.yaml, prompts/<recipe>/judge (label), data/test.jsonl, data/answers/, data/judgements/ (unblind),
        data/human/
writes  reports/blind/index.html, reports/blind/key.json, reports/blind/label.html, reports/blind/label_key.json,
        data/human/<rater>.jsonl (serve), reports/metrics/human.json (unblind)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anneal import files, params
from anneal.errors import UserError
from anneal.human import ballot, tally, vote_records, vote_server
from anneal.records import Record, answered
from anneal.systems import SYSTEMS

FOLDER, VOTES, METRIC = Path("reports/blind"), Path("data/human"), Path("reports/metrics/human.json")
FILES = {"pairs": ("index.html", "key.json"), "label": ("label.html", "label_key.json")}


def texts(records: Sequence[Record], systems: Sequence[str]) -> dict[str, dict[str, str]]:
    """What each system said to each record; golden is the completion. UserError where a system lacks a record."""
    return {system: answered(system, records, files.read, surplus=True) for system in systems}


def store(made: ballot.Sheet, args: argparse.Namespace) -> None:
    """Write page and key; a key that votes were cast on is not thrown away by accident."""
    page, key = (FOLDER / name for name in FILES[made.key["kind"]])
    if not made.key["entries"]:
        raise UserError(f"--n: at least 1, got {args.n}")
    if key.is_file() and (old := ballot.seal(key.read_text("utf-8"))) != made.name and not args.force:
        cast = sum(vote.sheet == old for vote in vote_records.read(VOTES))
        if cast:
            raise UserError(
                f"{key}: {cast} votes were cast on this sheet, and a new one ends it; count them first "
                "(make unblind), then add --force (make: FORCE=1)"
            )
    files.write_text(key, made.sealed)
    files.write_text(page, ballot.document(made))
    roles = [entry["role"] for entry in made.key["entries"]]
    drawn = len({entry["record"] for entry in made.key["entries"] if entry["role"] == "vote"})
    print(
        f"{drawn} test records{f' (no more than that differ, of {args.n} wanted)' if drawn < args.n else ''}; "
        f"{len(roles)} questions, of them {roles.count('repeat')} repeats and {roles.count('identical')} attention "
        f"checks\n{key}  keep this from whoever votes\n{page.resolve().as_uri()}  open or send this"
    )


def build(args: argparse.Namespace) -> None:
    records = files.read("data/test.jsonl", "id", "item", "type", "prompt", "completion")
    pairs = []
    for word in args.pair or ["tuned:base"]:
        first, _, second = word.partition(":")
        if first == second or not {first, second} <= set(SYSTEMS):
            raise UserError(f"--pair: two of {', '.join(SYSTEMS)} with a colon between them, got {word!r}")
        pairs.append((first, second))
    found = texts(records, sorted({name for pair in pairs for name in pair}))
    seed = params.load().get("seed", 0)
    made = ballot.compare(records, found, pairs, args.n, seed, args.question, args.repeat, args.identical, args.cap)
    store(made, args)


def label(args: argparse.Namespace) -> None:
    records = files.read("data/test.jsonl", "id", "item", "type", "prompt", "completion")
    values, systems = params.load(), args.systems
    scales, seed = ballot.levels(values["recipe"]), values.get("seed", 0)
    made = ballot.label(records, texts(records, systems), systems, args.n, seed, args.question, args.repeat, scales)
    store(made, args)


def there() -> dict[str, tuple[str, dict[str, Any]]]:
    """The sheets of this checkout, by kind: name and key; UserError where a page is that of another key."""
    found = {}
    for kind, (page, key) in FILES.items():
        if not (FOLDER / key).is_file():
            continue
        raw = (FOLDER / key).read_text("utf-8")
        if (FOLDER / page).is_file() and ballot.seal(raw) not in (FOLDER / page).read_text("utf-8"):
            raise UserError(
                f"{FOLDER / key}: not the key of {FOLDER / page}; somebody edited one of them, build both anew"
            )
        found[kind] = (ballot.seal(raw), json.loads(raw))
    if not found:
        raise UserError(f"{FOLDER}: no sheet here; make blind N=40, or make label N=20")
    return found


def judged(key: dict[str, Any]) -> dict[tuple[str, str], Record]:
    """The judge's rows of the texts on the sheet; a text that was written anew since has none."""
    was = {(s, e["record"]): d for e in key["entries"] for s, d in zip(e["sides"], e["digests"], strict=True)}
    systems = [s for s in sorted({s for s, _ in was}) if Path(f"data/judgements/{s}.jsonl").is_file()]
    now = texts(files.read("data/test.jsonl", "id", "completion"), systems)
    rows = ((s, row) for s in systems for row in files.read(f"data/judgements/{s}.jsonl", "id", "outcome"))
    return {
        (s, row["id"]): row
        for s, row in rows
        if row["outcome"] == "ok" and was.get((s, row["id"])) == ballot.digest(now[s].get(row["id"], ""))
    }


def unblind(_: argparse.Namespace) -> None:
    votes, values, numbers = vote_records.standing(vote_records.read(VOTES)), params.load(), {}
    for kind, (name, key) in there().items():
        if not any(vote.sheet == name for vote in votes):
            continue
        if kind == "pairs":
            tie = values.get("compare", {}).get("tie", 0)
            numbers[kind] = tally.pairs(key, votes, judged(key), name, tie, values.get("seed", 0))
        else:
            numbers[kind] = tally.label(key, votes, judged(key), name, values.get("seed", 0))
    if not numbers:
        raise UserError(f"{VOTES}: no vote on the present sheet; put exported files there, or make blind-serve")
    files.write_json(METRIC, numbers)
    print("\n".join([*(line for kind, found in numbers.items() for line in tally.lines(kind, found)), str(METRIC)]))


def hand_out(args: argparse.Namespace) -> None:
    names = {"pairs": "", "label": "label"}
    pages = {names[k]: vote_server.Page((FOLDER / FILES[k][0]).read_bytes(), name) for k, (name, _) in there().items()}
    vote_server.run(pages, VOTES, args.port)


def share(word: str) -> float:
    if not 0 <= float(word) <= 1:
        raise argparse.ArgumentTypeError(f"from 0 to 1, got {word}")
    return float(word)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("blind", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = top.add_subparsers(required=True, metavar="build|label|serve|unblind")
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--question", default="", help="what is asked of every entry (default: the page's own words)")
    both.add_argument("--repeat", type=share, default=0.1, help="share asked twice (default: 0.1)")
    both.add_argument("--force", action="store_true", help="replace a sheet that votes were cast on")
    pairs = words.add_parser("build", parents=[both], help="a page that asks which of two texts is better")
    pairs.add_argument("--n", type=int, default=40, help="test records that are drawn (default: 40)")
    pairs.add_argument("--pair", action="append", help="two systems, as tuned:base (the default); may be repeated")
    pairs.add_argument("--identical", type=share, default=0.05, help="share of attention checks (default: 0.05)")
    pairs.add_argument("--cap", type=int, default=0, help="characters after which both texts are cut (default: never)")
    pairs.set_defaults(run=build)
    single = words.add_parser("label", parents=[both], help="a page that asks for the rubric's scores, 1 to 5")
    single.add_argument("--n", type=int, default=20, help="test records that are drawn (default: 20)")
    usual = ("golden", "tuned", "base")
    single.add_argument("--systems", nargs="+", choices=SYSTEMS, default=usual, help=f"(default: {' '.join(usual)})")
    single.set_defaults(run=label)
    server = words.add_parser("serve", help="hand the pages out on this machine and keep the votes")
    server.add_argument(
        "--port", type=int, default=vote_server.PORT, help=f"(default: {vote_server.PORT}; if taken, any)"
    )
    server.set_defaults(run=hand_out)
    words.add_parser("unblind", help="open the key and count the votes").set_defaults(run=unblind)
    return top


def main() -> int:
    args = parser().parse_args()
    try:
        args.run(args)
    except UserError as err:
        print(f"blind: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
