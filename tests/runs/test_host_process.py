"""A run leaves its host process unchanged: environment variables, threads, signal handlers, warnings, logging."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

import pgzoo
from pgzoo.algorithms.a2c import A2C, A2CConfig
from pgzoo.config import Layer
from pgzoo.errors import PluginError, RunFailed, UsageError
from pgzoo.registry import PluginCatalog, PluginInfo, Registry
from pgzoo.runs.resolve import compose
from pgzoo.runs.resume import resume
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home, find, records
from pgzoo.tracking.locks import lock
from pgzoo.training import checkpoint
from pgzoo.training.compiling import Compiled

SHORT: dict[str, Any] = {"env": "CartPole-v1", "num_envs": 2, "total_steps": 60, "eval_episodes": 1}
SHORT |= {"policy": {"name": "mlp", "hidden": (4,)}}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def state_of_process() -> dict[str, Any]:
    logger = logging.getLogger("pgzoo")
    return {
        "environment": dict(os.environ),
        "threads": (torch.get_num_threads(), [library["num_threads"] for library in threadpool_info()]),
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
def test_a_finished_run_leaves_the_process_unchanged() -> None:
    with unchanged():
        assert pgzoo.run("a2c", **SHORT, threads=torch.get_num_threads() + 1, compile="off").status == "finished"


@pytest.mark.usefixtures("home")
def test_a_refused_run_leaves_the_process_unchanged() -> None:
    with unchanged(), pytest.raises(UsageError):
        pgzoo.run("a2c", **SHORT, threads=torch.get_num_threads() + 1, launcher="local", workers=2)


@pytest.mark.usefixtures("home")
def test_an_algorithm_that_raises_leaves_the_process_unchanged(catalog: PluginCatalog) -> None:
    given = {"algorithm": "boom", **SHORT, "total_steps": 10_000, "threads": torch.get_num_threads() + 1}
    with unchanged():
        result = run_config(compose(Layer(given, ".".join), catalog), catalog)
    assert isinstance(result.error, RunFailed) and result.status == "failed"


def test_a_listener_that_cannot_be_created_leaves_the_process_unchanged(catalog: PluginCatalog, home: Home) -> None:
    def broken(context: Any) -> None:
        raise ValueError("no display")

    registry = Registry(PluginInfo("broken", "entry point", "broken"))
    registry.listener("broken", broken)
    mixed = PluginCatalog(list(catalog.plugins), dict(catalog.objects), dict(catalog._entries))
    mixed.add(registry.plugin, object(), registry.entries.values())
    with unchanged(), pytest.raises(PluginError, match='listener "broken" can\'t be created: ValueError: no display'):
        run_config(compose(Layer({"algorithm": "a2c", **SHORT}, ".".join), mixed), mixed)
    assert not list(home.runs.iterdir())


def with_components(catalog: PluginCatalog, registry: Registry) -> PluginCatalog:
    """Return the catalog with the components of a plugin."""
    mixed = catalog.copy()
    mixed.add(registry.plugin, object(), registry.entries.values())
    return mixed


def test_an_algorithm_that_is_registered_as_an_object_is_reported(catalog: PluginCatalog) -> None:
    registry = Registry(PluginInfo("mine", "entry point", "mine"))
    registry.algorithm("my-a", A2C(), config=A2CConfig)
    mixed = with_components(catalog, registry)
    message = (
        r'algorithm "my-a" can\'t be created: <pgzoo.*A2C object.* is not a class or function\. Register the class'
    )
    with pytest.raises(PluginError, match=message):
        run_config(compose(Layer({"algorithm": "my-a", **SHORT}, ".".join), mixed), mixed)


def test_a_listener_without_the_argument_context_is_reported(catalog: PluginCatalog, home: Home) -> None:
    class Simple:
        """Takes no argument."""

    registry = Registry(PluginInfo("simple", "entry point", "simple"))
    registry.listener("simple", Simple)
    mixed = with_components(catalog, registry)
    message = (
        r'listener "simple" can\'t be created: .*Simple takes no arguments, but pgzoo calls it with one argument, the'
    )
    with pytest.raises(PluginError, match=message):
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


@pytest.mark.usefixtures("home")
def test_listeners_are_closed_after_a_second_signal(
    catalog: PluginCatalog, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    class Impatient:
        closed = 0

        @pgzoo.hookimpl
        def pgzoo_update_done(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        def close(self) -> None:
            self.closed += 1
            raise OSError("gone")

    listener = Impatient()
    mixed = with_listener(catalog, "impatient", listener)
    with pytest.raises(KeyboardInterrupt):
        run_config(compose(Layer({"algorithm": "a2c", **SHORT}, ".".join), mixed), mixed, progress="bar")
    assert listener.closed == 1 and 'Listener "impatient" raised in close: OSError: gone' in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "pgzoo-progress"]


def with_listener(catalog: PluginCatalog, name: str, listener: object) -> PluginCatalog:
    registry = Registry(PluginInfo(name, "entry point", name))
    registry.listener(name, lambda context: listener)
    mixed = PluginCatalog(list(catalog.plugins), dict(catalog.objects), dict(catalog._entries))
    mixed.add(registry.plugin, object(), registry.entries.values())
    return mixed


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("required", [True, False])
def test_a_listener_that_raises_fails_the_run_only_if_it_is_required(
    catalog: PluginCatalog, required: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def __init__(self) -> None:
            self.required = required

        @pgzoo.hookimpl
        def pgzoo_update_done(self) -> None:
            raise OSError("no space")

    mixed = with_listener(catalog, "full", Full())
    result = run_config(compose(Layer({"algorithm": "a2c", **SHORT, "rollout_steps": 10}, ".".join), mixed), mixed)
    if required:
        assert result.status == "failed" and str(result.error).startswith('Listener "full", which keeps')
        assert result.env_steps < SHORT["total_steps"]
    else:
        assert result.status == "finished" and result.error is None
        assert 'Listener "full" raised in pgzoo_update_done and is detached: OSError: no space (' in caplog.text


def test_a_removed_journal_that_cannot_be_written_again_fails_the_run(catalog: PluginCatalog, home: Home) -> None:
    class Vandal:
        done = False

        @pgzoo.hookimpl
        def pgzoo_update_done(self) -> None:
            if not self.done:
                shutil.rmtree(home.runs)
                home.runs.write_text("in the way")
                self.done = True

    mixed = with_listener(catalog, "vandal", Vandal())
    given = {"algorithm": "a2c", **SHORT, "total_steps": 10**9, "max_minutes": 1.0, "compile": "off"}
    result = run_config(compose(Layer(given, ".".join), mixed), mixed).settled()
    assert result.status == "failed" and isinstance(result.error, RunFailed) and result.error.exit_code == 1
    assert "was removed" in str(result.error) and "it can't be written again: " in str(result.error)


def test_compiled_libraries_get_paths_in_the_home_of_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries: list[Path] = []

    def compile_nothing(flat: Any, leaves: Any, library: Path, pool: str) -> None:
        libraries.append(library)
        raise RuntimeError("no compiler in this test")

    monkeypatch.setattr("pgzoo.runs.result.EXIT_WAIT", 0.0)
    monkeypatch.setattr("pgzoo.training.inductor._build", compile_nothing)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    for name in ("first", "second"):
        monkeypatch.setenv("PGZOO_HOME", str(tmp_path / name))
        shipping = lock(Home.find().uploader_lock, timeout=1)
        with unchanged():
            assert pgzoo.run("a2c", **SHORT, compile="on").status == "finished"
        assert shipping is not None
        shipping.release()
    assert [library.parent for library in libraries] == [tmp_path / "first/compiled", tmp_path / "second/compiled"]


@pytest.mark.parametrize(
    "resumable",
    [pytest.param(True, id="first update"), pytest.param(False, id="later update", marks=pytest.mark.slow)],
)
def test_a_run_interrupted_by_a_signal_during_compilation_can_be_resumed(
    home: Home, monkeypatch: pytest.MonkeyPatch, catalog: PluginCatalog, resumable: bool
) -> None:
    """Only the signal ends the compilation. Resuming is exact if the first update was being compiled."""
    given_up = threading.Event()

    def compile_for_ever(flat: Any, leaves: Any, library: Path, pool: str) -> None:
        try:
            library.with_suffix(".part").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                time.sleep(0.01)
        finally:
            library.with_suffix(".part").unlink()
            given_up.set()

    eager = Compiled.__call__
    calls: list[Any] = []

    def compiled_later(self: Compiled, tree: Any) -> Any:
        calls.append(tree)
        return self.function(tree) if len(calls) == 1 and not resumable else eager(self, tree)

    config = compose(Layer({"algorithm": "a2c", **SHORT, "compile": "on", "rollout_steps": 10}, ".".join), catalog)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with monkeypatch.context() as patch, unchanged():
        patch.setattr("pgzoo.training.inductor._build", compile_for_ever)
        patch.setattr(Compiled, "__call__", compiled_later)
        result = run_config(config, catalog)
    assert given_up.wait(60) and not list((home.root / "compiled").iterdir())
    assert result.status == "interrupted" and result.runs[0].reason == "interrupted by SIGTERM"
    *_, last = (record for record, _ in records(home.runs / result.runs[0].run_key) if record)
    assert (last["t"], last["status"]) == ("end", "KILLED")
    saved = checkpoint.latest(home.runs / result.runs[0].run_key / "checkpoints")
    assert saved.about["status"] == "interrupted" and saved.state.updates.tolist() == [0 if resumable else 1]
    assert (saved.about["resume"] == "exact") == resumable  # environments can't return to the start of the update
    monkeypatch.setattr(Compiled, "__call__", lambda self, tree: self.function(tree))  # compiling takes long
    resumed, whole = resume(find(result.group, home), catalog), run_config(config, catalog)
    assert resumed.status == whole.status == "finished"
    mine, other = (one.ended.state.params for one in (resumed, whole))
    assert all(leaf.equal(other[name]) for name, leaf in mine.items()) == resumable


@pytest.mark.slow
def test_a_compiled_run_leaves_the_process_unchanged(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with unchanged():
        assert pgzoo.run("a2c", **SHORT, compile="on").status == "finished"
    assert len(list((home.root / "compiled").glob("*.so"))) == 1


def test_a_home_passed_as_argument_is_used_instead_of_pgzoo_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalog: PluginCatalog
) -> None:
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path / "other"))
    home = Home.find({"PGZOO_HOME": str(tmp_path / "mine")})
    shipping = lock(home.uploader_lock, timeout=1)
    assert shipping is not None
    result = run_config(compose(Layer({"algorithm": "a2c", **SHORT}, ".".join), catalog), catalog, home=home)
    assert find(result.group, home) and not (tmp_path / "other").exists()
    shipping.release()


@pytest.mark.usefixtures("home")
def test_a_diverged_training_with_finite_losses_causes_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    longer = SHORT | {"total_steps": 290}  # its last loss is 5e11, and the largest 4e21
    assert pgzoo.run("a2c", **longer, compile="off", learning_rate=1e10).status == "finished"
    (warning,) = (r.getMessage() for r in caplog.records if "diverged" in r.getMessage())
    assert warning.startswith("The training of seed 0 has diverged: loss/value reached ")
    caplog.clear()
    pgzoo.run("a2c", **SHORT, compile="off")
    assert not [r for r in caplog.records if "diverged" in r.getMessage()]
