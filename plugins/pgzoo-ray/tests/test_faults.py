"""Faults of a real cluster: a node or the head is killed, the head is restarted, a link is cut, a token is missing.

Runs that survive a fault must have the results of a run in one process. Every run has a time limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import Nodes, bridge, descendants, eventually, ip, namespaces_are_allowed

pytestmark = pytest.mark.slow

TRAIN = "run ppo --env CartPole-v1 --backend sync --preset none --num-envs 4 --rollout-steps 32 --epochs 2 --seeds 5,3"
TRAIN += " --checkpoint-every 1000 --eval-episodes 3 --tracking-uri none --json --no-progress --compile off"
TRAIN += f" --import {Path(__file__).with_name('held.py')}"
STEPS = 12_000
LIMIT = 150.0
"""Seconds within which a command has to end after a fault; README.md names it."""
HANGING_LIMIT = 240.0
"""The same if Ray hangs."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A cluster whose head has no CPUs, and no other nodes yet."""
    cluster = Nodes(tmp_path)
    try:
        cluster.head = cluster.start(cpus=0, head=True)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of the same run in one process."""
    folder = tmp_path_factory.mktemp("local")
    command = [sys.executable, "-m", "pgzoo", *TRAIN.split(), f"--total-steps={STEPS}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return results(json.loads(done.stdout))


def results(of: dict[str, Any]) -> list[Any]:
    """Return the part of a result that must not depend on where seeds are trained."""
    return [{k: v for k, v in seed.items() if k not in ("run_key", "run_id")} for seed in of["seeds"]]


def training(nodes: Nodes) -> subprocess.Popen[str]:
    """Start a run, and return it when both seeds have a checkpoint, after which they wait for `go_on`."""
    (nodes.folder / "hold").touch()
    run = nodes.pgzoo(*TRAIN.split(), f"--total-steps={STEPS}", "--launcher", "ray")

    def saved() -> bool:
        assert run.poll() is None, (nodes.folder / "err").read_text()
        return len({path.parent for path in nodes.folder.glob(".pgzoo/runs/*/checkpoints/step-*")}) == 2

    eventually(saved, "checkpoints")
    return run


def go_on(nodes: Nodes, after: str) -> None:
    """Let the workers continue when the command has written this text to stderr."""
    eventually(lambda: after in (nodes.folder / "err").read_text(), f'"{after}"')
    (nodes.folder / "hold").unlink()


def test_a_token_and_large_enough_nodes_are_required(nodes: Nodes) -> None:
    nodes.start(cpus=1)
    for environ in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": str(nodes.new_token("other"))}):
        refused = nodes.pgzoo(*TRAIN.split(), f"--total-steps={STEPS}", "--launcher", "ray", **environ)
        code, result, err = nodes.result(refused)
        assert (code, result) == (2, {}) and "InvalidAuthToken" in err
        assert "Error: The Ray cluster at 127.0.0.1:" in err and "the same token (RAY_AUTH_TOKEN_PATH)" in err
    large = nodes.pgzoo(*TRAIN.split(), f"--total-steps={STEPS}", "--launcher", "ray", "--cpus-per-shard=2")
    code, result, err = nodes.result(large)
    assert (code, result) == (2, {})
    assert "no node of the Ray cluster has the 2 CPUs and 0 GPUs that a shard needs" in err
    assert not (nodes.folder / ".pgzoo" / "runs").exists()


def test_a_cluster_started_by_pgzoo_refuses_clients_without_its_token(tmp_path: Path) -> None:
    home = Nodes(tmp_path)
    own = {"RAY_ADDRESS": "", "RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    try:
        run = home.pgzoo(*TRAIN.split(), "--total-steps=300000", "--launcher", "ray", **own)

        def address() -> str:
            assert run.poll() is None, (tmp_path / "err").read_text()
            return next(filter(None, map(gcs_address, descendants(run.pid))), "")

        where = eventually(address, "cluster")
        eventually(lambda: list(tmp_path.glob(".pgzoo/runs/*/journal.jsonl")), "training")
        connect = f"import ray; ray.init({where!r}, log_to_driver=False)"
        refused = home.python(connect, check=False, RAY_AUTH_MODE="disabled")
        assert refused.returncode == 1 and "InvalidAuthToken" in refused.stderr
        token = tmp_path / ".ray" / "auth_token"
        assert home.python(connect, RAY_AUTH_TOKEN_PATH=str(token)).returncode == 0
    finally:
        home.close()


def gcs_address(pid: int) -> str:
    """Return the address of the cluster that a process belongs to, from its arguments; "" if they don't name it."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return ""
    return next((a.partition("=")[2] for a in arguments if a.startswith("--gcs-address=")), "")


@pytest.mark.parametrize("absence", ["none", "until it is missed"])
def test_a_restarted_head_does_not_change_results(nodes: Nodes, expected: list[Any], absence: str) -> None:
    nodes.start(cpus=2)
    run = training(nodes)
    assert nodes.head is not None
    nodes.kill(nodes.head)
    if absence != "none":
        go_on(nodes, after="can't be reached for 30 seconds. If it is back")
    nodes.start(cpus=0, head=True, again=True)
    nodes.start(cpus=2, again=True)
    restarted = time.monotonic()
    if absence == "none":
        go_on(nodes, after="was restarted and has lost its state")
    code, result, err = nodes.result(run)
    assert code == 0 and time.monotonic() - restarted < LIMIT, err
    assert results(result) == expected and "Warning: the head of the Ray cluster, " in err


def test_a_run_finishes_without_the_head_if_nothing_else_is_lost(nodes: Nodes, expected: list[Any]) -> None:
    nodes.start(cpus=2)
    run = training(nodes)
    assert nodes.head is not None
    nodes.kill(nodes.head)
    go_on(nodes, after="")
    killed = time.monotonic()
    code, result, err = nodes.result(run)
    assert code == 0 and time.monotonic() - killed < LIMIT, err
    assert results(result) == expected


def test_a_killed_node_does_not_change_results_and_shards_can_be_verified(nodes: Nodes, expected: list[Any]) -> None:
    nodes.start(cpus=1)
    second = nodes.start(cpus=1)
    run = training(nodes)
    nodes.kill(second)
    killed = time.monotonic()
    go_on(nodes, after="its seeds continue from their last checkpoints")
    code, result, err = nodes.result(run)
    assert code == 0 and time.monotonic() - killed < LIMIT, err
    assert results(result) == expected

    nodes.start(cpus=1)
    short = [*TRAIN.split(), "--total-steps=2000", "--launcher=ray", "--verify=0.05"]
    code, result, err = nodes.result(nodes.pgzoo(*short))
    assert code == 0 and "Verified: a second worker computed the same results" in err
    assert [one["outcome"] for one in result["verified"]] == ["equal"]


def test_a_killed_head_ends_the_run_with_an_error(nodes: Nodes) -> None:
    nodes.start(cpus=1)
    nodes.start(cpus=1)
    run = training(nodes)
    assert nodes.head is not None
    nodes.kill(nodes.head)
    killed = time.monotonic()
    code, result, err = nodes.result(run)
    assert code == 1 and time.monotonic() - killed < LIMIT, err
    assert [seed["status"] for seed in result["seeds"]] == ["failed"] * 2
    assert "can't be reached for 30 seconds, and isn't back 90 seconds later: " in err


def test_a_head_that_hangs_at_the_start_is_an_error_within_the_time_limit(nodes: Nodes) -> None:
    nodes.start(cpus=1)
    assert nodes.head is not None
    nodes.freeze(nodes.head)
    started = time.monotonic()
    code, result, err = nodes.result(nodes.pgzoo(*TRAIN.split(), f"--total-steps={STEPS}", "--launcher", "ray"))
    assert (code, result) == (2, {}) and time.monotonic() - started < LIMIT, err
    assert "Error: The Ray cluster at 127.0.0.1:" in err and "wasn't ready within 120 seconds" in err


def test_a_run_fails_if_the_head_hangs_and_a_node_is_lost(nodes: Nodes) -> None:
    nodes.start(cpus=1)
    second = nodes.start(cpus=1)
    run = training(nodes)
    assert nodes.head is not None
    nodes.freeze(nodes.head)
    nodes.kill(second)
    killed = time.monotonic()
    code, result, err = nodes.result(run)
    assert code == 1 and time.monotonic() - killed < HANGING_LIMIT, err
    assert "failed" in [seed["status"] for seed in result["seeds"]]


@pytest.mark.skipif(not namespaces_are_allowed(), reason="needs the right to create network namespaces")
@pytest.mark.parametrize("meanwhile", ["its worker waits", "its worker goes on"])
def test_a_cut_link_does_not_change_results(tmp_path: Path, expected: list[Any], meanwhile: str) -> None:
    with bridge(2) as spaces:
        nodes = Nodes(tmp_path, "10.231.7.1")
        try:
            nodes.start(cpus=0, head=True)
            for name, address, _ in spaces:
                nodes.start(cpus=1, namespace=name, address=address)
            run = training(nodes)
            ip("link", "set", spaces[1][2], "down")
            cut = time.monotonic()
            go_on(nodes, after="its node has not answered for 45 seconds" if "waits" in meanwhile else "")
            code, result, err = nodes.result(run)
            assert code == 0 and time.monotonic() - cut < LIMIT, err
            assert results(result) == expected and "its node has not answered for 45 seconds" in err
        finally:
            nodes.close()
