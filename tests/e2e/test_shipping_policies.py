"""Policies outside of their runs: as served MLflow models, as exported files and as videos."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from program import PATIENCE, eventually

from pgzoo import load_policy

if TYPE_CHECKING:
    from program import Folder, Server

Trained = tuple["Folder", dict[str, Any]]
SHORT = ("reinforce", "--env", "CartPole-v1", "--total-steps", "1000", "--eval-episodes", "4")


def models(folder: Folder, run_id: str, database: Path | None = None) -> list[tuple[str, str, int]]:
    """Return the (id, name, status) of a run's models."""
    with closing(sqlite3.connect(database or folder.path / "mlflow.db")) as store:
        query = "SELECT model_id, name, status FROM logged_models WHERE source_run_id = ?"
        return store.execute(query, (run_id,)).fetchall()


def ledger(folder: Folder, run_key: str) -> Path:
    return folder.path / ".pgzoo" / "runs" / run_key / "ack.json"


@contextmanager
def served(folder: Folder, model: str) -> Iterator[str]:
    """Run `mlflow models serve` on loopback; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    where = {"PATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{folder.path}/mlflow.db"}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    written = folder.path / ".pgzoo" / "serve.log"
    with written.open("ab") as log:
        server = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=folder.path,
            env={**folder.env, **where},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def up() -> bool:
        assert server.poll() is None, written.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10):
                return True
        except OSError:
            return False

    try:
        folder.eventually(up)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def post(address: str, request: Any) -> Any:
    asked = urllib.request.Request(
        f"{address}/invocations", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        return json.load(answer)


def test_a_served_model_predicts_the_greedy_actions_of_the_trained_policy(trained: Trained) -> None:
    folder, answer = trained
    run = answer["seeds"][1]
    [(model, name, _)] = models(folder, run["run_id"])
    assert name == "reinforce-s7"
    policy = load_policy(folder.path / ".pgzoo" / "runs" / run["run_key"] / "artifacts" / "policy")
    views = np.random.default_rng(0).uniform(-0.2, 0.2, (64, 4)).astype(np.float32)
    expected = policy.act(views, deterministic=True).tolist()
    assert 0 < sum(expected) < len(views)
    with served(folder, f"models:/{model}") as address:
        assert post(address, {"inputs": views.tolist()}) == {"predictions": expected}
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(address, {"inputs": [[0.0, 0.0, 0.0]]})
        assert refused.value.code == 400 and "(-1, 4)" in refused.value.read().decode()
        assert post(address, {"inputs": views[:1].tolist()}) == {"predictions": expected[:1]}


def test_a_model_is_linked_to_its_run_and_has_its_evaluation(trained: Trained) -> None:
    folder, answer = trained
    for run in answer["seeds"]:
        [(model, _, _)] = models(folder, run["run_id"])
        code = (
            f"[(m.status.value, m.source_run_id, m.params, {{x.key: x.value for x in m.metrics}}, "
            f"[o.model_id for o in client.get_run({run['run_id']!r}).outputs.model_outputs]) "
            f"for m in [client.get_logged_model({model!r})]][0]"
        )
        status, source, params, metrics, outputs = folder.ask(code)
        assert (status, source, outputs) == ("READY", run["run_id"], [model])
        assert params == {"algorithm": "reinforce", "env": "CartPole-v1", "seed": str(run["seed"])}
        assert metrics["eval/return_mean"] == run["return_mean"]
        assert metrics["eval/greedy_return_mean"] == run["greedy_return_mean"]


@pytest.mark.parametrize(
    "died", ["before the files were there", pytest.param("before the ledger was written", marks=pytest.mark.slow)]
)
def test_a_model_is_logged_once_even_if_the_uploader_died_meanwhile(trained: Trained, died: str) -> None:
    folder, answer = trained
    run = answer["seeds"][0]
    before = models(folder, run["run_id"])
    with closing(sqlite3.connect(folder.path / "mlflow.db", timeout=PATIENCE)) as store, store:
        metrics = store.execute("SELECT count(*) FROM metrics").fetchone()
        if died == "before the files were there":
            status, where = "status = 1, status_message = ''", (before[0][0],)
            store.execute(f"UPDATE logged_models SET {status} WHERE model_id = ?", where)
    if died == "before the files were there":
        [place] = folder.path.rglob(f"models/{before[0][0]}")
        shutil.rmtree(place)
    file = ledger(folder, run["run_key"])
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": ""}))
    folder.pgzoo("sync")
    folder.eventually(lambda: json.loads(file.read_text())["model"])
    assert models(folder, run["run_id"]) == before
    assert next(folder.path.rglob(f"models/{before[0][0]}/artifacts/MLmodel")).is_file()
    with closing(sqlite3.connect(folder.path / "mlflow.db", timeout=PATIENCE)) as store:
        assert store.execute("SELECT count(*) FROM metrics").fetchone() == metrics
        [(links,)] = store.execute("SELECT count(*) FROM inputs WHERE destination_id = ?", (before[0][0],))
        assert links == 1


class WithoutModels(BaseHTTPRequestHandler):
    """Acts like an older server, which has no logged models; forwards all other requests."""

    behind = ""

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "logged-models" in self.path:
            status, content = 404, b"<html>Not Found</html>"
        else:
            kind = self.headers.get("Content-Type", "application/json")
            asked = urllib.request.Request(
                self.behind + self.path, body or None, {"Content-Type": kind}, method=self.command
            )
            try:
                with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                    status, content = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = _pass  # noqa: N815 (the names are http.server's)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_server_without_logged_models_causes_only_a_warning(folder: Folder, server: Server) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Old", (WithoutModels,), {"behind": server.uri})) as old:
        Thread(target=old.serve_forever, daemon=True).start()
        answer = folder.run(*SHORT, "--tracking-uri", f"http://127.0.0.1:{old.server_address[1]}")
        (run,) = answer["seeds"]
        told = ledger(folder, run["run_key"])
        eventually(lambda: json.loads(told.read_text())["model"])  # a busy machine may upload it after the run
        old.shutdown()
    assert json.loads(told.read_text())["model"].startswith("the store takes no models")
    assert models(folder, run["run_id"], server.path / "server.db") == []
    shipped = folder.ask(f"look(client.get_run({run['run_id']!r}))", server.uri)
    assert shipped["status"] == "FINISHED" and "policy/policy.safetensors" in shipped["files"]
    assert "the store takes no models" in (folder.path / ".pgzoo" / "uploader.log").read_text()


def test_evaluating_an_exported_policy_reproduces_the_mean_return_of_its_run(trained: Trained, tmp_path: Path) -> None:
    folder, answer = trained
    run = answer["seeds"][1]
    out, _ = folder.pgzoo("export", run["run_key"], "--to", str(tmp_path / "it"), "--json")
    assert json.loads(out) == [
        {"name": "reinforce s7", "seed": 7, "format": "safetensors", "folder": str(tmp_path / "it")}
    ]
    options = ("--episodes", "100", "--json", "--per-episode")
    [here] = json.loads(folder.pgzoo("evaluate", str(tmp_path / "it"), "--seed", "7", *options)[0])
    assert here["return_mean"] == run["return_mean"]
    assert len(here["returns"]) == 100 and np.mean(here["returns"]) == here["return_mean"]
    assert (here["env"], here["run_id"]) == ("CartPole-v1", None)
    out, _ = folder.pgzoo("evaluate", str(tmp_path / "it"), "--episodes", "3", "--per-episode")
    lines = out.splitlines()
    assert lines[-4].split() == ["run", "episode", "return", "length"]
    assert [line.split()[1] for line in lines[-3:]] == ["1", "2", "3"]
    _, err = folder.pgzoo("evaluate", str(tmp_path / "it"), "--env", "Acrobot-v1", code=2)
    assert "Error: Acrobot-v1 has observations in Box" in err and "the policy was trained with Box" in err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves a pipe open
@pytest.mark.slow
def test_videos_of_a_run_contain_every_step_of_their_episodes(trained: Trained, tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    folder, answer = trained
    file = tmp_path / "film.mp4"
    options = ("--out", str(file), "--episodes", "2", "--deterministic", "--json")
    films = json.loads(folder.pgzoo("video", answer["group"], *options)[0])
    assert [film["file"] for film in films] == [str(tmp_path / f"film-s{seed}.mp4") for seed in (3, 7)]
    for film in films:
        with imageio.get_reader(film["file"]) as reader:
            frames = sum(1 for _ in reader)
        assert frames == sum(film["returns"]) + 2  # CartPole's reward is 1 per step; plus each episode's last frame
    bundle = folder.path / ".pgzoo" / "runs" / answer["seeds"][1]["run_key"] / "artifacts" / "policy"
    [film] = json.loads(folder.pgzoo("video", str(bundle), *options)[0])
    assert film["file"] == str(file) and file.is_file()
    assert film["returns"] == films[1]["returns"]  # greedy actions, in the same episodes
    _, err = folder.pgzoo("video", answer["group"], "--out", "film.avi", code=2)
    assert "give a name that ends in .mp4" in err


@pytest.mark.slow  # tests/export/test_mlflow_model.py tests this for all models in one process
def test_an_exported_mlflow_model_is_loaded_without_a_store(trained: Trained, tmp_path: Path) -> None:
    folder, answer = trained
    folder.pgzoo("export", answer["group"], "--to", str(tmp_path), "--format", "mlflow")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s3", "s7"]
    assert (tmp_path / "s7" / "MLmodel").is_file()
    code = (
        "import warnings; warnings.simplefilter('ignore')\nimport mlflow.pyfunc, numpy as np\n"
        f"model = mlflow.pyfunc.load_model({str(tmp_path / 's7')!r})\n"
        "print(model.predict(np.zeros((2, 4), np.float32)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=folder.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    policy = load_policy(tmp_path / "s7" / "artifacts" / "policy")
    zeros = np.zeros((2, 4), np.float32)
    assert json.loads(done.stdout.splitlines()[-1]) == policy.act(zeros, deterministic=True).tolist()
