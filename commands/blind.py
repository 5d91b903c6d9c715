"""blind: asks people which text is better, without naming the systems, and counts the votes.

    make blind N=40       writes a page of pairs to open or to send
    make label N=20       writes a page on which people score single texts with the judge's rubric
    make blind-serve      serves both pages on this machine and stores the votes
    make unblind          reads the key and counts the votes

Not a stage of DVC: votes arrive at any time. A rater with only the file exports the votes; put the exported file into
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
from anneal.records import Metrics, Record, answered
from anneal.systems import SYSTEMS

FOLDER = Path("reports/blind")
VOTES = Path("data/human")
METRIC = Path("reports/metrics/human.json")
FILES = {"pairs": ("index.html", "key.json"), "label": ("label.html", "label_key.json")}  # kind -> page, key
URLS = {"pairs": "", "label": "label"}  # kind -> name of the page on the server
LABEL_SYSTEMS = ("golden", "tuned", "base")  # default of --systems


def texts_of(records: Sequence[Record], systems: Sequence[str]) -> dict[str, dict[str, str]]:
    """System -> record id -> text; that of golden is the completion. UserError where a system lacks a record."""
    return {system: answered(system, records, files.read, surplus=True) for system in systems}


def write_ballot(drawn: ballot.Ballot, args: argparse.Namespace) -> None:
    """Write page and key and print a summary. UserError where votes on another ballot would lose their key."""
    page, key = (FOLDER / name for name in FILES[drawn.key["kind"]])
    entries = drawn.key["entries"]
    if not entries:
        raise UserError(f"--n: at least 1, got {args.n}")
    old_id = ballot.sha256(key.read_text("utf-8")) if key.is_file() else drawn.id
    if old_id != drawn.id and not args.force:
        n_votes = sum(vote.sheet == old_id for vote in vote_records.read(VOTES))
        if n_votes:
            raise UserError(
                f"{key}: {n_votes} votes refer to this ballot and would lose their key; count them first "
                "(make unblind), then add --force (make: FORCE=1)"
            )
    files.write_text(key, drawn.key_text)
    files.write_text(page, ballot.page(drawn))
    roles = [entry["role"] for entry in entries]
    n_records = len({entry["record"] for entry in entries if entry["role"] == "vote"})
    shortage = f" (of {args.n} requested; there are no more)" if n_records < args.n else ""
    print(
        f"{n_records} test records{shortage}; {len(roles)} questions, of them {roles.count('repeat')} repeats and "
        f"{roles.count('identical')} attention checks\n"
        f"{key}  the key: keep it from the raters\n{page.resolve().as_uri()}  the page: open it or send it"
    )


def build(args: argparse.Namespace) -> None:
    """Draw and write a ballot of pairs."""
    records = files.read("data/test.jsonl", "id", "item", "type", "prompt", "completion")
    pairs = []
    for word in args.pair or ["tuned:base"]:
        first, _, second = word.partition(":")
        if first == second or not {first, second} <= set(SYSTEMS):
            raise UserError(f"--pair: two of {', '.join(SYSTEMS)} with a colon between them, got {word!r}")
        pairs.append((first, second))
    texts = texts_of(records, sorted({name for pair in pairs for name in pair}))
    seed = params.load().get("seed", 0)
    drawn = ballot.pairs_ballot(
        records, texts, pairs, args.n, seed, args.question, args.repeat, args.identical, args.cap
    )
    write_ballot(drawn, args)


def label(args: argparse.Namespace) -> None:
    """Draw and write a ballot of single texts."""
    records = files.read("data/test.jsonl", "id", "item", "type", "prompt", "completion")
    values = params.load()
    levels = ballot.rubric_levels(values["recipe"])
    texts = texts_of(records, args.systems)
    seed = values.get("seed", 0)
    drawn = ballot.label_ballot(records, texts, args.systems, args.n, seed, args.question, args.repeat, levels)
    write_ballot(drawn, args)


def stored_ballots() -> dict[str, tuple[str, dict[str, Any]]]:
    """The ballots of this checkout, kind -> (id, key). UserError where there is none, or a page is of another key."""
    ballots = {}
    for kind, names in FILES.items():
        page, key = (FOLDER / name for name in names)
        if not key.is_file():
            continue
        key_text = key.read_text("utf-8")
        ballot_id = ballot.sha256(key_text)
        if page.is_file() and ballot_id not in page.read_text("utf-8"):
            raise UserError(f"{key}: not the key of {page}; one of them was edited, build both again")
        ballots[kind] = (ballot_id, json.loads(key_text))
    if not ballots:
        raise UserError(f"{FOLDER}: no ballot here; make blind N=40, or make label N=20")
    return ballots


def judged_texts(key: dict[str, Any]) -> dict[tuple[str, str], Record]:
    """(system, record) -> the judge's row, for the texts of a ballot; none for a text that has changed since."""
    digests = {}
    for entry in key["entries"]:
        for system, text_digest in zip(entry["sides"], entry["digests"], strict=True):
            digests[system, entry["record"]] = text_digest
    paths = {system: Path(f"data/judgements/{system}.jsonl") for system in sorted({system for system, _ in digests})}
    systems = [system for system, path in paths.items() if path.is_file()]
    texts = texts_of(files.read("data/test.jsonl", "id", "completion"), systems)
    judged = {}
    for system in systems:
        for row in files.read(paths[system], "id", "outcome"):
            present = ballot.text_digest(texts[system].get(row["id"], ""))
            if row["outcome"] == "ok" and digests.get((system, row["id"])) == present:
                judged[system, row["id"]] = row
    return judged


def unblind(_: argparse.Namespace) -> None:
    """Count the votes and write the metrics. UserError without a vote on a present ballot."""
    votes = vote_records.current(vote_records.read(VOTES))
    values = params.load()
    seed = values.get("seed", 0)
    metrics: dict[str, Metrics] = {}
    for kind, (ballot_id, key) in stored_ballots().items():
        if not any(vote.sheet == ballot_id for vote in votes):
            continue
        if kind == "pairs":
            tie = values.get("compare", {}).get("tie", 0)
            metrics[kind] = tally.pair_metrics(key, votes, judged_texts(key), ballot_id, tie, seed)
        else:
            metrics[kind] = tally.label_metrics(key, votes, judged_texts(key), ballot_id, seed)
    if not metrics:
        raise UserError(f"{VOTES}: no vote on the present ballot; put exported files there, or make blind-serve")
    files.write_json(METRIC, metrics)
    lines = [line for kind, part in metrics.items() for line in tally.summary_lines(kind, part)]
    print("\n".join([*lines, str(METRIC)]))


def serve(args: argparse.Namespace) -> None:
    """Serve the pages until Ctrl-C."""
    pages = {}
    for kind, (ballot_id, _) in stored_ballots().items():
        content = (FOLDER / FILES[kind][0]).read_bytes()
        pages[URLS[kind]] = vote_server.Page(content, ballot_id)
    vote_server.run(pages, VOTES, args.port)


def share(word: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(word)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"from 0 to 1, got {word}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line: a subcommand and its options."""
    top = argparse.ArgumentParser("blind", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="build|label|serve|unblind")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--question", default="", help="question to the rater (default: that of the page)")
    # The default shares give a ballot of 40 records 4 repeats and 2 attention checks.
    common.add_argument("--repeat", type=share, default=0.1, help="share of questions asked twice (default: 0.1)")
    common.add_argument("--force", action="store_true", help="replace a ballot that has votes")
    pairs = commands.add_parser("build", parents=[common], help="write a page that asks which of two texts is better")
    pairs.add_argument("--n", type=int, default=40, help="number of test records (default: 40)")
    pairs.add_argument("--pair", action="append", help="two systems, as tuned:base (the default); may be repeated")
    pairs.add_argument("--identical", type=share, default=0.05, help="share of attention checks (default: 0.05)")
    pairs.add_argument("--cap", type=int, default=0, help="characters after which both texts are cut (default: never)")
    pairs.set_defaults(run=build)
    single = commands.add_parser("label", parents=[common], help="write a page that asks for the rubric's scores")
    single.add_argument("--n", type=int, default=20, help="number of test records (default: 20)")
    single.add_argument(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        default=LABEL_SYSTEMS,
        help=f"systems whose texts are scored (default: {' '.join(LABEL_SYSTEMS)})",
    )
    single.set_defaults(run=label)
    server = commands.add_parser("serve", help="serve the pages on this machine and store the votes")
    server.add_argument(
        "--port", type=int, default=vote_server.PORT, help=f"(default: {vote_server.PORT}; any free one if it is taken)"
    )
    server.set_defaults(run=serve)
    commands.add_parser("unblind", help="read the key and count the votes").set_defaults(run=unblind)
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
