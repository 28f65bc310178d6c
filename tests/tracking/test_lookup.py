"""Finding runs by id, key, group or name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgzoo.errors import StoreError, UnknownName
from pgzoo.tracking import Home, Session, find
from pgzoo.tracking.ledger import start_of, write_json

if TYPE_CHECKING:
    from conftest import Place


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("pgzoo.tracking.session.ensure_uploader", lambda home: None)
    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    for group, name in (("g1", "reinforce"), ("g2", "reinforce"), ("g3", "mine")):
        session = Session(home, group, home.default_uri)
        for seed in (0, 1, 10):
            journal = session.journal(
                f"{group}-{seed}",
                name=f"{name} s{seed}",
                experiment="e",
                seed=seed,
                algorithm="reinforce",
                env="CartPole-v1",
            )
            if seed == 0:
                journal.artifact("policy/policy.safetensors", b"weights")
            journal.end("FINISHED")
        session.close(0)
    write_json(home.runs / "g1-1" / "run.json", {"run_id": "f" * 32, "tracking_uri": "http://there"})
    return home


def keys(ref: str, home: Home) -> list[str]:
    return [found.run_key for found in find(ref, home)]


def test_runs_are_found_by_run_id_key_group_or_name(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgzoo.tracking.lookup.query_store", None)  # querying a store fails
    assert keys("f" * 32, home) == ["g1-1"]
    assert keys("g1-0", home) == ["g1-0"]
    assert keys("g1", home) == ["g1-0", "g1-1", "g1-10"]
    assert keys("mine", home) == ["g3-0", "g3-1", "g3-10"]


def test_a_name_refers_to_the_newest_runs_with_that_name(home: Home) -> None:
    assert keys("reinforce", home) == ["g2-0", "g2-1", "g2-10"]
    assert keys("reinforce s1", home) == ["g2-1"]


def test_a_found_run_has_its_metadata_and_artifacts(home: Home) -> None:
    [found] = find("g1-1", home)
    assert (found.run_id, found.tracking_uri) == ("f" * 32, "http://there")
    [found] = find("g2-0", home)
    assert (found.run_id, found.tracking_uri, found.group, found.seed) == (None, home.default_uri, "g2", 0)
    assert (found.algorithm, found.env, found.path) == ("reinforce", "CartPole-v1", home.runs / "g2-0")
    assert found.artifact("policy/policy.safetensors").read_bytes() == b"weights"


def test_only_runs_in_sqlite_stores_have_their_artifacts_in_the_home(home: Home) -> None:
    for uri, expected in (
        (home.default_uri, home.artifacts.as_uri()),
        ("sqlite:////elsewhere/runs.db", home.artifacts.as_uri()),
        ("http://there", None),
    ):
        session = Session(home, "g4", uri)
        journal = session.journal(
            f"g4-{len(uri)}", name="n s0", experiment="e", seed=0, algorithm="a", env="CartPole-v1"
        )
        start = start_of(journal.path)
        journal.end("FINISHED")
        session.close(0)  # otherwise its thread starts an uploader when the real `ensure_uploader` is restored
        assert start is not None and start.get("artifacts") == expected


def test_a_missing_artifact_and_a_path_outside_the_run_are_errors(home: Home) -> None:
    [found] = find("g2-1", home)
    with pytest.raises(StoreError, match="has no artifact video"):
        found.artifact("video.mp4")
    with pytest.raises(ValueError, match="artifact path"):
        found.artifact("../journal.jsonl")


def test_artifacts_of_a_run_on_another_machine_are_downloaded_once(embedded: Place, tmp_path: Path) -> None:
    embedded.result(embedded.train("far", updates=3))
    code = (
        "from pgzoo.errors import StoreError\nfrom pgzoo.tracking import Home, find, lookup\n"
        f"[found] = find('far', Home.find(), {embedded.home.default_uri!r})\n"
        "assert found.path is None\n"
        "first = found.artifact('plots/learning_curve.png')\n"
        "assert first.parts[-2:] == ('plots', 'learning_curve.png') and first.read_bytes()[1:4] == b'PNG'\n"
        "query, lookup.query_store = lookup.query_store, None\n"  # querying a store fails
        "assert found.artifact('plots/learning_curve.png') == first\n"
        "lookup.query_store = query\n"
        "assert found.artifact('episodes.csv').parent == first.parent.parent\n"
        "try: found.artifact('policy/policy.json')\n"
        "except StoreError as error: print(error)\n"
    )
    env = {**embedded.env, "PGZOO_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"Run little s0 \(\w+\) has no artifact policy/policy.json: it ended before .*\n", done.stdout)


def test_an_unknown_reference_suggests_the_nearest_name(home: Home) -> None:
    with pytest.raises(UnknownName, match='Did you mean "reinforce"'):
        find("reinforse", home)
