"""The one table people read, for the terminal: scores, the difference with its interval, and the shares that pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anneal.records import Metrics
from anneal.systems import present

if TYPE_CHECKING:
    from rich.table import Table

IN_TABLE = 3  # shares that are columns, less two where there is an aligned model; the others stand under the table


def show(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _gap(gap: Metrics) -> str:
    """A difference with its interval, marked where it is none."""
    mark = {"none": "~ ", "open": "~ ", "noise": "~ ", "equivalent": "= "}.get(gap["state"], "")
    span = f" [{show(gap['low'], '+.2f')}, {show(gap['high'], '+.2f')}]"
    # What so many clusters could have found: an open difference is no proof that there is none.
    return (
        mark
        + show(gap["mean"], "+.2f")
        + span
        + (f" finds {show(gap['detectable'])}" if gap["state"] == "open" else "")
    )


def table(numbers: Metrics) -> Table:
    """Scores first, then what a check can decide; every mean with its denominator, the difference with its interval."""
    from rich.table import Table

    systems = present(numbers["overall"])
    initials = "/".join(system[0] for system in systems)
    gaps = {"tuned - base": "difference", "aligned - tuned": "aligned_difference"}
    gaps = {heading: key for heading, key in gaps.items() if key in numbers}
    wide = IN_TABLE - (2 if len(systems) > IN_TABLE else 0)
    whole = {**numbers["overall"], **{key: numbers[key] for key in (*gaps.values(), "best")}}
    wrong = ", ".join(f"{name} {show(value['mean'])} of {value['n']}" for name, value in numbers["controls"].items())
    made = Table(
        title=f"{numbers['score_kind']} (1 to 5) and shares that pass; [95% interval, clustered by item]",
        caption=f"~ not distinguishable from 0, = within the margin; strict of golden in the wrong place: {wrong}\n"
        + "; ".join(
            f"{key.replace('_', ' ')}: " + "/".join(show(whole[s][key]) for s in systems)
            for key in numbers["shares"][wide:]
        ),
    )
    made.add_column("type", no_wrap=True)
    shown = numbers["shares"][:wide]
    headings = ("n", *systems, *gaps, f"best {initials}/tie")
    for heading in (*headings, *(f"{key.replace('_', ' ')} {initials}" for key in shown)):
        made.add_column(heading, justify="right", no_wrap=True)
    for name, row in {**numbers["by_type"], "all": whole}.items():
        if name == "all":
            made.add_section()
        n = row["golden"]["n"]
        scores = [
            show(row[s]["score"]) + (f" ({row[s]['n_scored']})" if row[s]["n_scored"] < n else "") for s in systems
        ]
        wins = "/".join(str(row["best"][key]) for key in (*systems, "tie"))
        shares = ["/".join(show(row[s][key]) for s in systems) for key in shown]
        made.add_row(name, str(n), *scores, *(_gap(row[key]) for key in gaps.values()), wins, *shares)
    return made
