"""A run leaves its host process unchanged: environment variables, threads, signal handlers, warnings, logging."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import pgzoo
from pgzoo.config import Layer
from pgzoo.errors import PluginError, RunFailed, UsageError
from pgzoo.registry import PluginCatalog, PluginInfo, Registry
from pgzoo.runs.resolve import compose
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home, find, records
from pgzoo.tracking.locks import lock

SHORT: dict[str, Any] = {"env": "CartPole-v1", "num_envs": 2, "total_steps": 60, "eval_episodes": 1}
SHORT |= {"policy": {"name": "mlp", "hidden": (4,)}}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def state_of_process() -> dict[str, Any]:
    logger = logging.getLogger("pgzoo")
    return {
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "signals": [signal.getsignal(number) for number in SIGNALS],
        "warnings": list(warnings.filters),
        "logging": (logger.level, logger.propagate, list(logger.handlers)),
        "folder": Path.cwd(),
    }


@contextmanager
def unchanged() -> Iterator[None]:
    """Fail if the body changes the state of the process."""
    before = state_of_process()
    yield
    assert state_of_process() == before


@pytest.mark.usefixtures("home")
def test_a_run_that_finishes() -> None:
    with unchanged():
        assert pgzoo.run("a2c", **SHORT, threads=torch.get_num_threads() + 1, compile="off").status == "finished"


@pytest.mark.usefixtures("home")
def test_a_run_that_is_refused() -> None:
    with unchanged(), pytest.raises(UsageError):
        pgzoo.run("a2c", **SHORT, threads=torch.get_num_threads() + 1, launcher="local", workers=2)


@pytest.mark.usefixtures("home")
def test_an_algorithm_that_raises(catalog: PluginCatalog) -> None:
    given = {"algorithm": "boom", **SHORT, "total_steps": 10_000, "threads": torch.get_num_threads() + 1}
    with unchanged():
        result = run_config(compose(Layer(given, ".".join), catalog), catalog)
    assert isinstance(result.error, RunFailed) and result.status == "failed"


def test_a_listener_that_cannot_be_made(catalog: PluginCatalog, home: Home) -> None:
    def broken(context: Any) -> None:
        raise ValueError("no display")

    registry = Registry(PluginInfo("broken", "entry point", "broken"))
    registry.listener("broken", broken)
    mixed = PluginCatalog(list(catalog.plugins), dict(catalog.objects), dict(catalog._entries))
    mixed.add(registry.plugin, object(), registry.entries.values())
    with unchanged(), pytest.raises(PluginError, match='listener "broken" can\'t be made: ValueError: no display'):
        run_config(compose(Layer({"algorithm": "a2c", **SHORT}, ".".join), mixed), mixed)
    assert not list(home.runs.iterdir())


def test_a_second_signal_closes_the_runs_as_interrupted(catalog: PluginCatalog, home: Home) -> None:
    class Impatient:
        @pgzoo.hookimpl
        def pgzoo_update_done(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    registry = Registry(PluginInfo("impatient", "entry point", "impatient"))
    registry.listener("impatient", lambda context: Impatient())
    mixed = PluginCatalog(list(catalog.plugins), dict(catalog.objects), dict(catalog._entries))
    mixed.add(registry.plugin, object(), registry.entries.values())
    with unchanged(), pytest.raises(KeyboardInterrupt):
        run_config(compose(Layer({"algorithm": "a2c", **SHORT, "seeds": 2}, ".".join), mixed), mixed)
    for folder in home.runs.iterdir():
        *_, tags, last = (record for record, _ in records(folder) if record)
        assert (last["t"], last["status"]) == ("end", "KILLED") and tags["tags"] == {"pgzoo.status": "interrupted"}
        assert last["reason"] == "quit immediately after a second SIGINT"


def test_compiled_code_goes_to_the_home_of_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries: list[Path] = []

    def compile_nothing(flat: Any, leaves: Any, library: Path) -> None:
        libraries.append(library)
        raise RuntimeError("no compiler in this test")

    monkeypatch.setattr("pgzoo.training.compiling._compile", compile_nothing)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    for name in ("first", "second"):
        monkeypatch.setenv("PGZOO_HOME", str(tmp_path / name))
        shipping = lock(Home.find().uploader_lock, timeout=1)
        with unchanged():
            assert pgzoo.run("a2c", **SHORT, compile="on").status == "finished"
        assert shipping is not None
        shipping.release()
    assert [library.parent for library in libraries] == [tmp_path / "first/compiled", tmp_path / "second/compiled"]


@pytest.mark.slow
def test_compiling_leaves_the_environment_as_it_was(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with unchanged():
        assert pgzoo.run("a2c", **SHORT, compile="on").status == "finished"
    assert len(list((home.root / "compiled").glob("*.so"))) == 1


def test_a_home_that_is_passed_holds_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalog: PluginCatalog
) -> None:
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path / "other"))
    home = Home.find({"PGZOO_HOME": str(tmp_path / "mine")})
    shipping = lock(home.uploader_lock, timeout=1)
    assert shipping is not None
    result = run_config(compose(Layer({"algorithm": "a2c", **SHORT}, ".".join), catalog), catalog, home=home)
    assert find(result.group, home) and not (tmp_path / "other").exists()
    shipping.release()
