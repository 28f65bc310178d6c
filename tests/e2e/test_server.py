"""Runs that are uploaded to an MLflow server, which may be down for a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from program import PATIENCE

if TYPE_CHECKING:
    from program import Folder, Server

    Served = tuple[Folder, dict[str, Any], dict[str, Any]]


def test_the_server_can_be_given_by_option_or_environment_variable(served: Served, server: Server) -> None:
    folder, first, second = served
    assert (first["tracking_uri"], first["experiment"]) == (server.uri, "pgzoo/CartPole-v1")
    assert (second["tracking_uri"], second["experiment"]) == (server.uri, "mine")
    assert folder.created == {".pgzoo"}
    ids = [answer["seeds"][0]["run_id"] for answer in (first, second)]
    runs = folder.ask(f"[look(client.get_run(i), 'loss/policy') for i in {ids}]", server.uri)
    assert [(run["name"], run["status"]) for run in runs] == [
        ("reinforce gamma=0.9 s0", "FINISHED"),
        ("again s0", "FINISHED"),
    ]
    for run in runs:
        assert [step for step, _ in run["curves"]["loss/policy"]] == [1000, 2000, 3000]
        assert "plots/learning_curve.png" in run["files"]


@pytest.mark.slow  # tests/tracking/test_shipping.py tests this with a minimal trainer
def test_killing_the_server_neither_delays_training_nor_loses_points(folder: Folder, server: Server) -> None:
    steps = 100_000
    arguments = ("reinforce", "--env", "CartPole-v1", "--total-steps", str(steps), "--experiment", "outage", "--json")
    child = folder.start("run", *arguments, "--tracking-uri", server.uri)
    folder.eventually(lambda: list(folder.path.glob(".pgzoo/runs/*/journal.jsonl")))
    time.sleep(1.0)
    server.kill()
    try:
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err
        answer = folder.parse(out)
        assert "Not yet uploaded to MLflow" in err and "pgzoo sync" in err
        assert answer["timing"]["track"] < 0.05 * answer["wall_seconds"] + 0.2  # training didn't wait for the server
        assert sum(answer["timing"].values()) - answer["timing"]["evaluate"] > 0.9 * answer["wall_seconds"]
    finally:
        server.start()
    folder.pgzoo("sync")
    (run,) = folder.ask("[look(r, 'train/return_mean') for r in runs('outage')]", server.uri)
    assert run["status"] == "FINISHED"
    points = [step for step, _ in run["curves"]["train/return_mean"]]
    assert points == list(range(1000, points[-1] + 1, 1000)) and points[-1] >= steps
