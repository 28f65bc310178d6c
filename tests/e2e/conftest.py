"""Folders in which the real program was run, and a tracking server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from program import Folder, Server


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Folder, dict[str, Any]]]:
    """A folder in which two seeds were trained, and the JSON output of the command."""
    folder = Folder(tmp_path_factory.mktemp("trained"))
    answer = folder.run("reinforce", "--env", "CartPole-v1", "--seeds", "3,7", "--total-steps", "6000", "--tag", "a=b")
    folder.sync_all()
    folder.forks = True
    yield folder, answer
    folder.close()


@pytest.fixture(scope="session")
def zoo(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[tuple[Folder, dict[str, str], dict[str, str]]]:
    """A folder in which three algorithms were trained with several seeds each; the commands, and run ids by name."""
    folder = Folder(tmp_path_factory.mktemp("zoo"), empty_database, forks=True)
    steps, seeds = os.environ.get("PGZOO_PICTURE_STEPS", "3000"), "3" if "PGZOO_PICTURES" in os.environ else "2"
    commands, ids = dict[str, str](), dict[str, str]()
    for name, more in (("reinforce", ()), ("a2c", ()), ("ppo", ("--video",))):
        options = ("run", name, "--env", "CartPole-v1", "--seeds", seeds, "--total-steps", steps, *more, "--json")
        commands[name], (out, _) = " ".join(["pgzoo", *options]), folder.pgzoo(*options)
        ids |= {f"{name} s{seed['seed']}": seed["run_key"] for seed in folder.parse(out)["seeds"]}
    folder.sync_all()
    ids = {name: folder.run_id(key) for name, key in ids.items()}
    yield folder, commands, ids
    folder.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """A tracking server."""
    server = Server(tmp_path_factory.mktemp("server"), database=empty_database)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, server: Server
) -> Iterator[tuple[Folder, dict[str, Any], dict[str, Any]]]:
    """A folder with runs on the server, given by an option and by an environment variable, and the JSON outputs."""
    folder = Folder(tmp_path_factory.mktemp("served"), forks=True)
    short = ("reinforce", "--env", "CartPole-v1", "--total-steps", "3000", "--eval-episodes", "8")
    first = folder.run(*short, "--sweep-axis", "gamma=0.9,0.99", "--tracking-uri", server.uri)
    second = folder.run(*short, "--name", "again", MLFLOW_TRACKING_URI=server.uri, MLFLOW_EXPERIMENT_NAME="mine")
    folder.sync_all()
    yield folder, first, second
    folder.close()
