"""Folders with unusual names: valid ones work, and others are refused before anything is created."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import Folder

from pgzoo.tracking.ledger import Ledger

RUN = ("run", "reinforce", "--env", "CartPole-v1", "--total-steps", "200", "--eval-episodes", "2")


@pytest.mark.parametrize(
    "name",
    ["what?", "b\udcffd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("feature%2Fx", "two\nlines"))],
)
def test_a_folder_name_that_no_store_can_have_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    _, err = Folder(path, forks=True).pgzoo(*RUN, code=2)
    assert "set PGZOO_HOME" in err
    assert list(path.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    home = "/".join([str(tmp_path), *["x" * 200] * 17])
    folder = Folder(tmp_path, forks=True, PGZOO_HOME=home)
    _, err = folder.pgzoo(*RUN, code=2)
    assert "exceed the system's limit of 4,096" in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_an_unusual_but_valid_name_works(tmp_path: Path) -> None:
    path = tmp_path / "50%; a#b: é@c"
    path.mkdir()
    folder = Folder(path, forks=True)
    try:
        folder.pgzoo(*RUN)
        folder.pgzoo("sync")
        [run] = (path / ".pgzoo" / "runs").iterdir()
        assert Ledger.read(run).closed == "FINISHED"
        assert not (run / "rejected.jsonl").exists()
        assert list((path / "mlartifacts").rglob("learning_curve.png"))
        assert {p.name for p in tmp_path.iterdir()} == {path.name}
    finally:
        folder.close()
