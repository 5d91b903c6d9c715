"""The table of results in the terminal: scores, their differences with intervals, and pass rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anneal.records import Metrics
from anneal.systems import present

if TYPE_CHECKING:
    from rich.table import Table

# Pass rates that are columns, so that a row fits a terminal; with an aligned model, which adds two columns, two fewer.
# The others follow under the table.
IN_TABLE = 3
WITH_ALIGNED = IN_TABLE - 2


def show(value: float | None, form: str = ".2f") -> str:
    """A number by its format; a dash for a missing one."""
    return "-" if value is None else format(value, form)


def _difference(estimate: Metrics) -> str:
    """A difference with its interval, marked where it is not distinguishable from 0 or within the margin."""
    mark = {"none": "~ ", "open": "~ ", "noise": "~ ", "equivalent": "= "}.get(estimate["state"], "")
    interval = f"[{show(estimate['low'], '+.2f')}, {show(estimate['high'], '+.2f')}]"
    # An open difference does not show that there is none: the table adds what this number of clusters can detect.
    power = f" finds {show(estimate['detectable'])}" if estimate["state"] == "open" else ""
    return f"{mark}{show(estimate['mean'], '+.2f')} {interval}{power}"


def _scores(row: Metrics, systems: Sequence[str]) -> list[str]:
    """The score of each system, with the number of scored texts where some have no score."""
    n = row["golden"]["n"]
    cells = []
    for system in systems:
        missing = row[system]["n_scored"] < n
        cells.append(show(row[system]["score"]) + (f" ({row[system]['n_scored']})" if missing else ""))
    return cells


def table(numbers: Metrics) -> Table:
    """A row for each type and one for all: n, scores, differences with intervals, wins, and pass rates."""
    from rich.table import Table

    systems = present(numbers["overall"])
    initials = "/".join(system[0] for system in systems)
    differences = {"tuned - base": "difference", "aligned - tuned": "aligned_difference"}
    differences = {heading: key for heading, key in differences.items() if key in numbers}
    n_columns = WITH_ALIGNED if "aligned" in systems else IN_TABLE
    columns, others = numbers["shares"][:n_columns], numbers["shares"][n_columns:]
    overall = {**numbers["overall"], **{key: numbers[key] for key in (*differences.values(), "best")}}
    controls = ", ".join(f"{name} {show(value['mean'])} of {value['n']}" for name, value in numbers["controls"].items())
    built = Table(
        title=f"{numbers['score_kind']} (1 to 5) and shares that pass; [95% interval, clustered by item]",
        caption=f"~ not distinguishable from 0, = within the margin; strict of golden in the wrong place: {controls}\n"
        + "; ".join(f"{key.replace('_', ' ')}: " + "/".join(show(overall[s][key]) for s in systems) for key in others),
    )
    built.add_column("type", no_wrap=True)
    headings = ("n", *systems, *differences, f"best {initials}/tie")
    for heading in (*headings, *(f"{key.replace('_', ' ')} {initials}" for key in columns)):
        built.add_column(heading, justify="right", no_wrap=True)
    for name, row in {**numbers["by_type"], "all": overall}.items():
        if name == "all":
            built.add_section()
        wins = "/".join(str(row["best"][key]) for key in (*systems, "tie"))
        shares = ["/".join(show(row[s][key]) for s in systems) for key in columns]
        gaps = [_difference(row[key]) for key in differences.values()]
        built.add_row(name, str(row["golden"]["n"]), *_scores(row, systems), *gaps, wins, *shares)
    return built
