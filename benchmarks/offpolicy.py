"""Learning results of the plugin pgzoo-offpolicy; writes the tables in its README.

make results-offpolicy                       runs the rows that were not run
make results-offpolicy ROW=sac/Pendulum-v1   runs the rows whose name contains this, also if they are finished
python benchmarks/offpolicy.py --render      writes the tables from the rows that are kept
"""

from __future__ import annotations

import argparse
from pathlib import Path

from published import OFF_POLICY_ROWS
from result_rows import plain_tables, run_rows
from results import run_if_possible, stamp

PLUGIN = Path(__file__).resolve().parent.parent / "plugins" / "pgzoo-offpolicy"
KEPT = PLUGIN / "results.json"
BEGIN, END = "<!-- results: made by make results-offpolicy -->", "<!-- end of results -->"
"""The lines of the README between which the tables are."""


def with_tables(readme: str, tables: str) -> str:
    """Return the README with these tables. Raises ValueError if a line that marks their place is missing."""
    before, rest = readme.split(f"{BEGIN}\n")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--row", metavar="NAME", default="", help="run only the rows whose name contains this")
    parser.add_argument("--render", action="store_true", help="run nothing: write the tables from the rows kept")
    options = parser.parse_args()
    if not options.render:
        run_rows(options.row, run_if_possible, stamp, OFF_POLICY_ROWS, KEPT)
    path = PLUGIN / "README.md"
    tables = plain_tables(OFF_POLICY_ROWS, KEPT)
    path.write_text(with_tables(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
