"""Names that no store accepts: refused on the command line, and set aside if an older journal has one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from program import PATIENCE, PGZOO, Folder

from pgzoo.tracking.ledger import Ledger, read_json


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        ([b"--name", b"b\xffd"], {}, "--name: must be valid UTF-8"),
        pytest.param([b"--experiment", b"b\xffd"], {}, "--experiment: must be valid UTF-8", marks=pytest.mark.slow),
        pytest.param([b"--tag", b"key=b\xffd"], {}, "must be valid UTF-8", marks=pytest.mark.slow),
        ([b"--name", b"two\nlines"], {}, "--name: must not contain control characters"),
        ([], {b"MLFLOW_EXPERIMENT_NAME": b"b\xffd"}, "MLFLOW_EXPERIMENT_NAME"),
    ],
)
def test_a_name_that_cannot_be_uploaded_is_refused(
    tmp_path: Path, arguments: list[bytes], environ: dict[bytes, bytes], message: str
) -> None:
    env = {key.encode(): value.encode() for key, value in Folder(tmp_path).env.items()} | environ
    command = [*(part.encode() for part in PGZOO), b"run", b"reinforce", b"--env", b"CartPole-v1", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_can_never_be_uploaded_is_reported_and_blocks_no_others(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pgzoo import tracking\nhome = tracking.Home.find()\n"
        "with tracking.Session(home, 'g', home.default_uri) as session:\n"
        "    for key, name in (('bad', 'b\\udcffd'), ('good', 'good'), ('late', 'late')):\n"
        "        journal = session.journal(key, name=name, experiment='e', seed=0, algorithm='a', env='CartPole-v1')\n"
        "        journal.record([1], {'m': 1.0})\n"
        "        journal.end('FINISHED')\n"
        "    session.close(0)\n"
    )
    folder = Folder(tmp_path)
    try:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=folder.env, check=True, timeout=PATIENCE)
        out, _ = folder.pgzoo("sync", "--json", code=1)
        runs = tmp_path / ".pgzoo" / "runs"
        answer = json.loads(out)
        assert (answer["pending_runs"], list(answer["refused_runs"])) == (0, ["bad"])
        assert "isn't valid UTF-8" in answer["refused_runs"]["bad"]
        assert [Ledger.read(runs / key).closed for key in ("good", "late")] == ["FINISHED", "FINISHED"]
        assert read_json(runs / "good" / "run.json")["run_id"]
        assert "bad" in folder.pgzoo("doctor")[0]
    finally:
        folder.close()
