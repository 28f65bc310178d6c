"""`--tracking-uri none`: journals, checkpoints and artifacts stay on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import Folder

import pgzoo
from pgzoo.config.validation import normalize
from pgzoo.tracking import NO_STORE, Home, pending, resolve_uri

SHORT = ("--total-steps", "500", "--eval-episodes", "2", "--no-progress")


def test_nothing_is_uploaded_and_sync_evaluate_and_resume_work(folder: Folder) -> None:
    out, err = folder.pgzoo("run", "reinforce", "--env", "CartPole-v1", *SHORT, "--tracking-uri", "none")
    assert "MLflow    none: journals and checkpoints are in " in out and "pgzoo ui" not in out
    assert "shipped" not in err
    assert folder.created == {".pgzoo"} and not folder.uploaders()
    assert not list(folder.path.rglob("uploader.*"))
    assert "Nothing to upload." in folder.pgzoo("sync")[0]

    table, _ = folder.pgzoo("evaluate", "reinforce", "--episodes", "2", "--no-progress")
    assert "reinforce s0" in table
    answer = folder.parse(folder.pgzoo("resume", "reinforce", "--total-steps", "900", "--json", "--no-progress")[0])
    assert answer["tracking_uri"] == "none" and answer["seeds"][0]["run_id"] is None
    assert folder.created == {".pgzoo"} and not folder.uploaders()


def test_a_run_from_python_has_no_pending_uploads(home: Home) -> None:
    result = pgzoo.run("random", env="CartPole-v1", total_steps=200, eval_episodes=2, tracking_uri="none")
    assert result.tracking_uri == NO_STORE and not result.pending
    assert result.session.journals and not pending(home)
    assert not home.database.exists()


@pytest.mark.parametrize("given", ["none", "NONE", " none "])
def test_the_uri_none_means_no_store_instead_of_the_default_store(given: str, tmp_path: Path) -> None:
    from pgzoo.config import RunConfig

    annotation = RunConfig.model_fields["tracking_uri"].annotation
    assert normalize(given, annotation) == "none" and normalize(None, annotation) is None
    home = Home.find({}, tmp_path)
    assert resolve_uri(given, home, {}) == NO_STORE
    assert resolve_uri(None, home, {"MLFLOW_TRACKING_URI": given}) == NO_STORE
    assert resolve_uri(None, home, {}) == home.default_uri
