"""Carry out a hyperparameter search: check its options and space, open its study, and start its loop."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgzoo import tracking
from pgzoo.config import Layer, RunConfig
from pgzoo.errors import ConfigError, UsageError
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.initial import find_sources
from pgzoo.runs.objects import check_objects, import_files, register_objects
from pgzoo.runs.resolve import compose, resolve
from pgzoo.runs.waiting import ProgressMode, progress_mode
from pgzoo.search import preset as preset_file
from pgzoo.search.display import Display
from pgzoo.search.finals import fresh_seeds
from pgzoo.search.log import StudyLog
from pgzoo.search.loop import Search
from pgzoo.search.options import Pruner, Sampler, SearchOptions, require_optuna
from pgzoo.search.result import SweepResult
from pgzoo.search.space import check_effects, checked_space, parse_search, refuse_fixed
from pgzoo.search.storage import lost_storage
from pgzoo.search.study import Study, read_study, worker_lock
from pgzoo.search.trial import Objective

__all__ = ["join_study", "run_search", "sweep"]

OF_RANGES = ("cmaes", "qmc")
"""Samplers that propose values of ranges, and draw all other settings at random."""


def sweep(
    algorithm: str | type[Any] | None = None,
    *,
    search: Sequence[str] | Mapping[str, Any],
    trials: int = 40,
    seeds: int | Sequence[int] = 4,
    objective: Objective = "final",
    sampler: Sampler = "tpe",
    pruner: Pruner = "none",
    storage: str | None = None,
    study: str | None = None,
    max_hours: float | None = None,
    save_preset: str | None = None,
    top: int = 3,
    fresh_seeds: int | None = None,
    batch: int | None = None,
    sampler_seed: int = 0,
    jobs: int = 1,
    preset: str | Path = "auto",
    config: str | Path | None = None,
    imports: Sequence[str | Path] = (),
    no_plugin: Sequence[str] = (),
    progress: bool | None = None,
    **settings: Any,
) -> SweepResult:
    """Search for good hyperparameters with Optuna; the library's `pgzoo sweep`, with the same names.

        search = {"learning_rate": "log:1e-4..3e-3", "estimator": ["gae", "n-step"]}
        pgzoo.sweep("ppo", env="CartPole-v1", search=search)

    The score of a trial is the interquartile mean over its seeds. The best trials are trained again with other seeds,
    because the best score of many is too high by selection, and the winner is the one with the best new score.

    `algorithm`, `preset`, `config`, `imports`, `no_plugin`, `progress` and `settings` are those of `pgzoo.run`.

    Arguments of the search:
        search: the space by dotted key: a list of choices, "A..B", "log:A..B", or a mapping with low, high and log;
            or texts as on the command line.
        trials: number of trials.
        seeds: seeds of every trial; two or more.
        objective: "final", the mean return of the final policy, or "auc", the mean height of the learning curve.
        sampler: how settings are proposed.
        pruner: which trials are ended early.
        storage: URL of an Optuna storage; by default a journal file in pgzoo's folder.
        study: name of the study; one that exists is continued. By default a new one.
        max_hours: after this many hours no trial is started.
        save_preset: write the settings of the winner to this file.
        top: number of trials that are trained again.
        fresh_seeds: number of other seeds for these; by default twice the number of seeds of a trial.
        batch: number of trials that are proposed at once; by default 8 if they can be trained together, otherwise 1.
        sampler_seed: seed of the sampler.
        jobs: number of processes on this machine that train trials at the same time.

    Raises:
        UsageError: a setting or the space is wrong, or Optuna isn't installed; nothing was trained.
        RunFailed: the first trials failed, and none finished.
    """
    require_optuna()
    given_settings = {**settings, "seeds": seeds}
    named, imports = import_files({"algorithm": algorithm, **given_settings} if algorithm else given_settings, imports)
    catalog = discover(blocked=no_plugin, imports=imports)
    given, objects = register_objects(named, catalog)
    base = compose(Layer(given, ".".join), catalog, preset=preset, file=config)
    check_objects(objects, base.launcher)
    if objects and jobs > 1:
        raise ConfigError(
            f"jobs={jobs}: other processes can't be given the objects {', '.join(objects)}. Use jobs=1, or register "
            "them in a plugin."
        )
    options = SearchOptions(
        space=search,
        trials=trials,
        objective=objective,
        sampler=sampler,
        pruner=pruner,
        storage=storage,
        study=study,
        max_hours=max_hours,
        save_preset=save_preset,
        top=top,
        fresh_seeds=fresh_seeds,
        batch=batch,
        sampler_seed=sampler_seed,
        jobs=jobs,
    )
    return run_search(options, base, catalog, command="pgzoo.sweep", progress=progress_mode(progress), fixed=settings)


def run_search(
    options: SearchOptions,
    base: RunConfig,
    catalog: PluginCatalog,
    *,
    command: str = "",
    progress: ProgressMode = "none",
    home: tracking.Home | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> SweepResult:
    """Search from a config whose settings are resolved. See `sweep`.

    `fixed` are the settings in it that the user gave a value, rather than a preset or a file.

    An interruption (Ctrl-C) ends the search; finished trials are kept. See `SweepResult.interrupted`.

    Raises:
        UsageError: an option or the space is wrong; nothing was trained.
        RunFailed: the first trials failed, and none finished.
        KeyboardInterrupt: a second Ctrl-C.
    """
    require_optuna()
    options.check()
    home = home or tracking.Home.find()
    if len(base.seeds) < 2:
        raise ConfigError("A trial's score is over several seeds: give --seeds 2 or more.")
    if base.sweep_axis:
        raise ConfigError("sweep_axis and search can't be combined: give the values of the axis with --search.")
    given = parse_search(options.space)
    refuse_fixed(given, fixed or {})
    space = checked_space(given, base, catalog)
    check_effects(space, base, catalog)
    tracking.check_store(tracking.resolve_uri(base.tracking_uri, home), home)
    if base.init_from:
        find_sources(base.init_from, [*base.seeds, *fresh_seeds(options, base)], base.tracking_uri)
    if options.objective == "auc" and base.total_steps is not None and base.total_steps < base.log_every:
        raise UsageError(
            f"--objective auc: a run of {base.total_steps} steps has no point of the learning curve, because there is "
            f"one every {base.log_every}. Give --log-every {max(1, base.total_steps // 10)}, or more steps."
        )
    if options.save_preset:
        preset_file.check_target(options.save_preset)
    if options.sampler == "grid":
        space.grid(base)  # raises for a range
    if options.sampler in OF_RANGES and not space.ranges():
        raise ConfigError(
            f"--sampler {options.sampler} proposes values of ranges (KEY=A..B), and draws other settings at random; "
            "this space has no range. Choose another sampler, such as tpe."
        )
    name = options.study or _new_name(base)
    folder = home.root / "studies" / name
    opened = Study(name, folder, options, space, base)
    return _search(opened, catalog, command, progress, home)


def _new_name(base: RunConfig) -> str:
    env = re.sub(r"[^A-Za-z0-9.]+", "-", base.env)
    return f"{base.algorithm}-{env}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def join_study(
    name: str,
    catalog: PluginCatalog,
    *,
    storage: str | None = None,
    tracking_uri: str | None = None,
    max_hours: float | None = None,
    command: str = "",
    progress: ProgressMode = "none",
    home: tracking.Home | None = None,
) -> SweepResult:
    """Train trials of a study that another process started, until it has enough of them. See `run_search`.

    The best ones are not trained again; the process that started the study does that. After `max_hours`, no trial is
    started.

    Raises:
        UnknownName: there is no such study.
        StoreError: the storage can't be used.
    """
    require_optuna()
    home = home or tracking.Home.find()
    folder = home.root / "studies" / name
    settings, labels, options = read_study(name, folder, storage)
    options = replace(options, max_hours=max_hours)
    options.check()
    base = resolve([Layer({**settings, **labels, "tracking_uri": tracking_uri}, ".".join)], catalog)
    tracking.check_store(tracking.resolve_uri(tracking_uri, home), home)
    opened = Study(name, folder, options, checked_space(parse_search(options.space), base, catalog), base)
    return _search(opened, catalog, command, progress, home, finals=False)


def _search(
    opened: Study,
    catalog: PluginCatalog,
    command: str,
    progress: ProgressMode,
    home: tracking.Home,
    finals: bool = True,
) -> SweepResult:
    """Train trials of a study in this process; with `finals`, also the best ones with fresh seeds."""
    name, folder, options = opened.name, opened.folder, opened.options
    display = Display(progress, name, options.trials)
    with (
        _said_once(),
        lost_storage(options.storage, name),
        worker_lock(folder) as worker,
        StudyLog(opened, home, command) as log,
        opened.heartbeats(),
    ):
        return Search(opened, catalog, command, display, worker, log, home).run(finals=finals)


@contextmanager
def _said_once() -> Iterator[None]:
    """Let the same warning through once, not once per trial."""
    said: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        first = text not in said
        said.add(text)
        return first

    log = logging.getLogger("pgzoo")
    log.addFilter(new)
    try:
        yield
    finally:
        log.removeFilter(new)
