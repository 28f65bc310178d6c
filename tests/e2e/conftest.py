"""Folders and servers in which the real program runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from program import Folder, Server


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A working directory of the test's own."""
    folder = Folder(tmp_path)
    yield folder
    folder.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A working directory for many tests, each with an experiment of its own: making a store takes seconds."""
    folder = Folder(tmp_path_factory.mktemp("shared"))
    yield folder
    folder.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Folder, dict[str, Any]]]:
    """A folder in which two seeds were trained, and what the command answered."""
    folder = Folder(tmp_path_factory.mktemp("trained"))
    answer = folder.run("reinforce", "--env", "CartPole-v1", "--seeds", "3,7", "--total-steps", "6000", "--tag", "a=b")
    yield folder, answer
    folder.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tracking server."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()
