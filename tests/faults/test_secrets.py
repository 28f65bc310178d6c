"""A password in a tracking URI is stored in only one of a run's files, and never printed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from program import Folder, Server

MARK = "pa55word-that-is-marked"
SHORT = ("--total-steps", "500", "--eval-episodes", "2", "--checkpoint-every", "200")


def files_with_mark(folder: Path) -> set[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]
    return {str(path.relative_to(folder)) for path in found}


@pytest.mark.parametrize("given", ["option", pytest.param("environment", marks=pytest.mark.slow)])
def test_a_password_is_stored_in_one_private_file_and_never_printed(
    tmp_path: Path, empty_database: Path, given: str
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "server").mkdir()
    folder = Folder(tmp_path / "work", forks=True)
    server = Server(tmp_path / "server", database=empty_database)
    uri = server.uri.replace("http://", f"http://somebody:{MARK}@")
    arguments = ["run", "reinforce", "--env", "CartPole-v1", *SHORT]
    if given == "option":
        arguments += ["--tracking-uri", uri]
    else:
        folder.env["MLFLOW_TRACKING_URI"] = uri
    try:
        said = [*folder.pgzoo(*arguments), *folder.pgzoo("doctor")]
        [run] = (folder.path / ".pgzoo" / "runs").iterdir()
        said += folder.pgzoo("sync", "--wait", "1", code=1)
        folder.env.pop("MLFLOW_TRACKING_URI", None)  # the stored password must suffice
        server.start()
        said += folder.pgzoo("sync")
        said += folder.pgzoo("resume", run.name, "--total-steps", "800")
        said += folder.pgzoo("sync")
        said += folder.pgzoo("evaluate", run.name, "--episodes", "1")
        assert f"http://somebody:***@127.0.0.1:{server.port}" in (run / "journal.jsonl").read_text()
    finally:
        folder.close()
        server.kill()
    assert MARK not in "".join(said)
    assert files_with_mark(folder.path) == {".pgzoo/secrets.json"}
    secrets = folder.path / ".pgzoo" / "secrets.json"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (run, run.parent, run.parents[1])} == {0o700}
