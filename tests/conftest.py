"""Shared by many tests: probe environments with known solutions, small algorithms, fixtures, and the order of tests."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from filelock import FileLock
from gymnasium.spaces import Box, Discrete
from program import Folder
from pydantic import Field
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from pgzoo.config import ActionConfig, AlgorithmConfig, Layer, RunConfig
from pgzoo.ops.losses import weighted_mean
from pgzoo.policies.module import module_policy
from pgzoo.registry import PluginCatalog, PluginInfo, Registry, discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import resolve
from pgzoo.testing.probes import PROBES, Bandit, Corridor
from pgzoo.tracking import Home
from pgzoo.tracking.locks import lock
from pgzoo.training.engine import Engine
from pgzoo.training.events import Event, RunEnded
from pgzoo.training.loop import Control, train
from pgzoo.training.plan import Plan
from pgzoo.types import Batch, Episodes, Hyper, Params, Steps, TrainState, Trajectory

gc.set_threshold(50_000, 20, 100)  # as `pgzoo` does; modules and collected tests are never freed
torch.set_num_threads(1)  # as in a run; more threads would sum in another order
threadpool_limits(1, user_api="blas")
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:  # in a background job of a shell, or under nohup
        signal.signal(number, lambda *_: None)  # still ignored here, but not by the programs that tests start


class Faulty(Bandit):
    """A bandit that raises an error after `patience` steps."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.left = patience

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        if self.left < 0:
            raise OSError("the simulator is gone")
        return super().step(action)


class Recall(gym.Env[Any, Any]):
    """The first observation shows a sign; `delay` steps later, the action that matches it gets 1, the other -1.

    The observation before the last action is the same in every episode, so a policy without memory gets 0 on average.
    """

    observation_space = Box(-1.0, 1.0, (2,))
    action_space = Discrete(2)

    def __init__(self, delay: int = 3) -> None:
        self.delay = delay

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.sign, self.t = int(self.np_random.integers(2)), 0
        return np.array([2 * self.sign - 1, 0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t > self.delay
        paid = (1.0 if action == self.sign else -1.0) if over else 0.0
        return np.array([0, self.t == self.delay], np.float32), paid, over, False, {}


class Trap(gym.Env[Any, Any]):
    """Five steps, three actions: one has reward 1, one has 0, and one is a trap: it has -10 and ends the episode.

    The observation is the index of the trap; the next index, modulo 3, has reward 1. `tells` says how the environment
    provides its action mask: in `info` or by a method.
    """

    observation_space = Discrete(3)
    action_space = Discrete(3)

    def __init__(self, tells: str = "info") -> None:
        if tells == "method":
            self.action_masks = self._mask

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.trap = 0, int(self.np_random.integers(3))
        return self.trap, self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == self.trap:
            return self.trap, -10.0, True, False, self._info()
        paid = float(action == (self.trap + 1) % 3)
        self.t, self.trap = self.t + 1, int(self.np_random.integers(3))
        return self.trap, paid, self.t == 5, False, self._info()

    def _mask(self) -> Any:
        return (np.arange(3) != self.trap).astype(np.int8)

    def _info(self) -> dict[str, Any]:
        return {} if hasattr(self, "action_masks") else {"action_mask": self._mask()}


OWN = {"pgzoo/Faulty-v0": Faulty, "pgzoo/Recall-v0": Recall, "pgzoo/Trap-v0": Trap}
for _id, _probe in (PROBES | OWN).items():
    gym.register(
        _id.replace("pgzoo/", "probe/"), cast(Any, _probe), max_episode_steps=50 if _probe is Corridor else None
    )


class Windows:
    """A policy gradient whose loss is minus the mean of log-probability times return, over windows of 64 steps."""

    collect = Steps(64)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 4, "total_steps": 2000}

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        dist = policy.apply(params, batch.inputs).dist
        return -weighted_mean(dist.log_prob(batch.actions) * batch.advantages, batch.weights)


class SickConfig(AlgorithmConfig):
    """Settings of `sick`: the seed and update with non-finite numbers, and where these occur first."""

    sick_seed: int = -1
    sick_update: int = 0
    organ: Literal["advantages", "loss", "gradient"] = "loss"


class Sick(Windows):
    """As `windows`, on whole episodes, but in one update of one seed, numbers become infinite or NaN."""

    collect = Episodes()  # type: ignore[assignment]

    def update(self, ctx: Engine, state: TrainState, trajectory: Trajectory) -> TrainState:
        seeds, settings = np.array(ctx.plan.config.seeds), ctx.plan.config.settings
        assert isinstance(settings, SickConfig)
        sick = torch.from_numpy((seeds == settings.sick_seed) & (state.updates == settings.sick_update))[:, None, None]
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
        if settings.organ == "advantages":
            batch = batch._replace(advantages=torch.where(sick, torch.inf, batch.advantages))
        else:
            batch = batch._replace(returns=sick.float().expand_as(batch.returns))
        return ctx.step(self.loss, state, batch)

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        healthy = super().loss(policy, params, batch, hyper)
        if hyper.organ == "advantages":
            return healthy
        sick = batch.returns[:, 0, 0]
        if hyper.organ == "loss":
            return torch.where(sick > 0, torch.nan, healthy)
        # sqrt(0) is 0, and its derivative is infinite
        some = params["policy.bias.0"].sum(-1)
        return healthy + ((1 - sick) + sick * 0 * some).sqrt() - (1 - sick)


class Boom(Windows):
    """An algorithm that raises an error in its third update."""

    def update(self, ctx: Engine, state: TrainState, trajectory: Trajectory) -> TrainState:
        if state.updates.max() == 2:
            raise ZeroDivisionError("boom")
        return state


class LeakyConfig(AlgorithmConfig):
    """Settings of `picky`; one of them may be None, although its default is a number."""

    max_grad_norm: Annotated[float | None, Field(gt=0)] = 0.5
    sizes: tuple[int, ...] = (1, 2)


def build_net(inputs: Any, outputs: int) -> nn.Module:
    """Return a module such as a user might write: with a layer of unusual size and a normalization layer."""
    size = inputs if isinstance(inputs, int) else int(np.prod(inputs))
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, outputs))


def _register(registry: Registry) -> None:
    registry.policy("net", module_policy(build_net), config=ActionConfig)
    registry.policy("net-vmap", module_policy(build_net, "vmap"), config=ActionConfig)
    registry.algorithm("windows", Windows)
    registry.algorithm("sick", Sick, config=SickConfig)
    registry.algorithm("boom", Boom)
    registry.algorithm("picky", Windows, config=LeakyConfig)


@pytest.fixture(scope="session")
def catalog() -> PluginCatalog:
    """The installed plugins, and the algorithms and policies above."""
    found = discover(inline=False)
    registry = Registry(PluginInfo("probes", "entry point", "probes.plugin", "zoo-probes", "1.0"))
    _register(registry)
    found.add(registry.plugin, object(), registry.entries.values())
    return found


Configure = Callable[..., RunConfig]
MakePlan = Callable[..., Plan]
Play = Callable[..., list[Event]]


@pytest.fixture(scope="session")
def configure(catalog: PluginCatalog) -> Configure:
    """Return `configure(**settings)`: the resolved config of these settings and the defaults."""

    def resolved(algorithm: str = "reinforce", env: str = "CartPole-v1", **settings: Any) -> RunConfig:
        given = {"algorithm": algorithm, "env": env, "eval_episodes": 4, "compile": "off", **settings}
        return resolve([Layer(given, ".".join)], catalog)

    return resolved


@pytest.fixture(scope="session")
def plan(configure: Configure, catalog: PluginCatalog) -> MakePlan:
    """Return `plan(**settings)`: the plan of a run."""
    return lambda *args, **settings: make_plan(configure(*args, **settings), catalog)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every compilation fail, so that a compiled run falls back to eager steps."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("pgzoo.training.compiling.Compiled._compile", refuse)


@pytest.fixture
def engine(plan: MakePlan) -> Iterator[Callable[..., Engine]]:
    """Return `engine(**settings)`; the engines are closed after the test."""
    made: list[Engine] = []

    def make(*args: Any, **settings: Any) -> Engine:
        made.append(Engine(plan(*args, **settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def play(plan: MakePlan) -> Play:
    """Return `play(**settings)`: all events of a run."""
    return lambda *args, control=None, **settings: list(train(plan(*args, **settings), control or Control()))


@pytest.fixture(scope="session")
def last_state(play: Play) -> Callable[..., TrainState]:
    """Return `last_state(**settings)`: the train state at the end of a run."""

    def state(*args: Any, **settings: Any) -> TrainState:
        ended = play(*args, **settings)[-1]
        assert isinstance(ended, RunEnded)
        return ended.state

    return state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home for this test only; the test holds the uploader's lock, so that nothing is uploaded from there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path))
    monkeypatch.setattr("pgzoo.runs.result.EXIT_WAIT", 0.0)  # nothing is uploaded
    found = Home.find()
    shipping = lock(found.uploader_lock, timeout=1)
    assert shipping is not None
    yield found
    shipping.release()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, created once for all processes of pytest-xdist."""
    shared = tmp_path_factory.getbasetemp().parent
    made = shared / f"empty-{version('mlflow')}.db"
    with FileLock(shared / "empty.lock"):
        if not made.exists():
            create = "import sys, pathlib, pgzoo.tracking.database as d; d.prepare_database(pathlib.Path(sys.argv[1]))"
            subprocess.run([sys.executable, "-c", create, str(made)], check=True, capture_output=True)
    return made


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Iterator[Folder]:
    """A working directory for this test only, in which it runs the real program."""
    folder = Folder(tmp_path, empty_database, forks=True)
    yield folder
    folder.close()


@pytest.fixture
def untracked(tmp_path: Path) -> Iterator[Folder]:
    """As `folder`, but without a tracking store and thus without an uploader, which takes longer than a short run."""
    folder = Folder(tmp_path, forks=True, MLFLOW_TRACKING_URI="none")
    yield folder
    folder.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Folder]:
    """A working directory for many tests, each with its own experiment, because creating a store takes seconds."""
    folder = Folder(tmp_path_factory.mktemp("shared"), empty_database, forks=True)
    yield folder
    folder.close()


EXPENSIVE = """
tests/runs/test_kill.py tests/e2e tests/launchers tests/training/test_compiling.py tests/testing tests/faults
tests/algorithms/test_laws.py tests/training/test_seed_law.py tests/runs tests/tracking plugins tests/learning
tests/envs tests/export tests/test_readme.py tests/test_tutorial.py
""".split()
"""Folders and files to run first, the most expensive first, so that at the end no process waits for another."""
TOGETHER = {
    "test_run.py": "trained",
    "test_shipping_policies.py": "trained",
    "test_server.py": "server",
    "test_compare.py": "server",
    "test_endings.py": "shared",
    "test_kinds.py": "shared",
    "test_resume.py": "shared",
}
"""Files of tests/e2e with their group: files of a group share a session-wide fixture and a process of pytest-xdist."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the most expensive tests first; pytest-xdist hands them out in this order."""

    def rank(item: pytest.Item) -> tuple[int, str]:
        place = next((k for k, start in enumerate(EXPENSIVE) if item.nodeid.startswith(start)), len(EXPENSIVE))
        return place, group_of(item.nodeid) if place < len(EXPENSIVE) else ""

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Exclude imported modules and collected tests from later garbage collections."""
    gc.freeze()


def group_of(nodeid: str) -> str:
    """Return the name of the group of tests that one process runs: a file, or several files that share a fixture."""
    file = nodeid.partition("::")[0]
    return TOGETHER.get(file.removeprefix("tests/e2e/"), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out files as `--dist loadfile` does, except that files that share an expensive fixture stay together."""
    from xdist.scheduler import LoadFileScheduling

    class ByGroup(LoadFileScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
