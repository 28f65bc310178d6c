"""List the findings of `pgzoo.tracking.diagnoses` in finished runs, by algorithm and environment.

    python benchmarks/diagnoses.py [FOLDER ...]

The thresholds should find nothing in runs that solve their environment.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from pgzoo.tracking.diagnoses import diagnose
from pgzoo.tracking.report import read_history


def main(folders: list[str]) -> None:
    """Print a line per algorithm and environment: the number of runs, and of each finding."""
    runs: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, str], Counter[str]] = {}
    for folder in folders or ["."]:
        for journal in Path(folder).rglob("runs/*/journal.jsonl"):
            history = read_history(journal.parent)
            key = str(history.start.get("algorithm")), str(history.start.get("env"))
            runs[key] += 1
            found.setdefault(key, Counter()).update(diagnosis.name for diagnosis in diagnose(history))
    for (algorithm, env), count in sorted(runs.items()):
        findings = ", ".join(f"{name} {times}" for name, times in found[algorithm, env].items()) or "nothing"
        print(f"{algorithm} on {env}: {count} runs, found {findings}")


if __name__ == "__main__":
    main(sys.argv[1:])
