"""deps: writes the code deps of every stage into dvc.yaml, from the imports of its script.

    make deps

Run it after imports have changed: until then `tests/test_pipeline.py` fails. Only the lines between the comment "code,
by `make deps`" and the closing bracket change. Where a stage imports all files of a package, the package is listed in
their place.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from anneal import files, fingerprint

PIPELINE = Path("dvc.yaml")
MARK = "# code, by `make deps`"
WIDTH = 116  # characters of a line, indentation included


def modules(package: Path) -> set[Path]:
    """The modules directly in a package, without `__init__.py` files, which are empty, and without subfolders."""
    return {path for path in package.glob("*.py") if path.name != "__init__.py"}


def code_deps(script: Path) -> list[str]:
    """The script, then the sorted files of its import closure; a package that is imported in full stands for its files.

    Paths are relative to the root of the repository.
    """
    script = script.resolve()
    closure = set(fingerprint.code(script)) - {script}
    # The package `anneal` itself never stands for its files: its folder holds all other packages.
    packages = {path.parent for path in closure} - {fingerprint.ROOT / "anneal"}
    full_packages = {package for package in packages if modules(package) <= closure}
    names = full_packages | {path for path in closure if path.parent not in full_packages}
    return [str(path.relative_to(fingerprint.ROOT)) for path in [script, *sorted(names)]]


def with_code_deps(text: str) -> str:
    """The text of dvc.yaml with the code deps of the present imports.

    Edited by line: a YAML writer would lose the layout of the file, which is written to be read.
    """
    lines: list[str] = []
    script = Path()
    in_block = False
    for line in text.splitlines():
        command = re.match(r"\s+cmd: python -m ([\w.]+)", line)
        if command:
            script = fingerprint.ROOT / (command[1].replace(".", "/") + ".py")
        if in_block and line.strip() != "]":
            continue  # an old dep
        in_block = line.strip() == MARK
        lines.append(line)
        if in_block:
            indent = line[: len(line) - len(line.lstrip())]
            listing = ", ".join(code_deps(script))
            wrapped = textwrap.wrap(listing, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
            lines += [indent + part for part in wrapped]
    return "\n".join(lines) + "\n"


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((__doc__ or "").strip())
        return 0
    before = PIPELINE.read_text("utf-8")
    after = with_code_deps(before)
    if after != before:
        files.write_text(PIPELINE, after)
    print(f"{PIPELINE}: {'code deps written' if after != before else 'code deps are those of the imports'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
