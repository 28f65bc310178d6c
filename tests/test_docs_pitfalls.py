"""Every row of docs/pitfalls.md names a test that exists, and conformance checks that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pgzoo.testing.checks import CHECKS

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    line
    for line in (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| pitfall", "| ---"))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_row_names_a_test_that_exists(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert len(cells) == 3
    found = re.fullmatch(r"`([\w/.]+)::(\w+)`", cells[2])
    assert found
    tree = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
    assert found[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\*kit\*: `([^`]*)`", "\n".join(ROWS)))))
def test_each_named_check_of_the_conformance_kit_exists(name: str) -> None:
    assert name in {check for checks in CHECKS.values() for check in checks}


def test_the_kit_is_mentioned_only_together_with_a_check() -> None:
    assert len(re.findall(r"kit", "\n".join(ROWS))) == len(re.findall(r"\(\*kit\*: `[a-z-]+`\)", "\n".join(ROWS))) > 10


def test_the_table_has_more_than_40_rows() -> None:
    assert len(ROWS) > 40
