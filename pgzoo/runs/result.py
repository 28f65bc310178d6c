"""The result of a run: a row per seed, the training history, and the trained policies."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo import tracking
from pgzoo.config.sweep import Setting, format_setting
from pgzoo.errors import ConfigError, RunFailed, UsageError
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.launchers.verification import Verification
from pgzoo.ops.members import select
from pgzoo.runs.context import RunContext
from pgzoo.runs.display import VideoFile, html_table
from pgzoo.tracking.lookup import local_run
from pgzoo.training.events import Evaluated, MemberStatus, RunEnded, UpdateDone
from pgzoo.training.plan import Plan

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from pgzoo.tracking.diagnoses import Diagnosis
    from pgzoo.tracking.report import History
    from pgzoo.training.events import EvaluationMode

__all__ = ["EXIT_WAIT", "Result", "ResultBuilder", "SeedResult"]

_log = logging.getLogger("pgzoo")

EXIT_WAIT = 10.0
"""Longest time, in seconds, to wait at the end of a run until its records are in MLflow."""

FAILED_WAIT = 2.0
"""The same, for a run in which no step was trained."""

BADNESS: tuple[MemberStatus, ...] = ("finished", "stopped", "interrupted", "failed")
MAX_SHOWN = 12
"""Rows in the repr of a result."""


@dataclass(frozen=True, repr=False)
class SeedResult:
    """The result of one seed; in a sweep, of one seed and one setting.

    `returns` and `lengths` are `[episodes]`, of the final evaluation with sampled actions; `greedy_returns` is of the
    one with greedy actions. All are empty without a final evaluation. `settings` are the values that a sweep varied.
    """

    seed: int
    run_key: str
    run_id: str | None
    status: MemberStatus
    reason: str
    env_steps: int
    returns: np.ndarray[Any, np.dtype[np.float64]]
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    greedy_returns: np.ndarray[Any, np.dtype[np.float64]]
    settings: Setting = field(default_factory=dict)
    cut_episodes: int = 0
    """Evaluation episodes with sampled actions that had not ended after `eval_max_steps` steps."""
    greedy_cut_episodes: int = 0
    """As `cut_episodes`, with greedy actions."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serializable dict that `--json` prints; numbers of a missing evaluation are None."""
        played = bool(self.returns.size) and bool(np.isfinite(self.returns).all())
        greedy = bool(self.greedy_returns.size) and bool(np.isfinite(self.greedy_returns).all())
        swept = {"settings": dict(self.settings)} if self.settings else {}
        return {
            "seed": self.seed,
            **swept,
            "run_key": self.run_key,
            "run_id": self.run_id,
            "status": self.status,
            "reason": self.reason,
            "env_steps": self.env_steps,
            "return_mean": float(self.returns.mean()) if played else None,
            "return_std": float(self.returns.std()) if played else None,
            "return_min": float(self.returns.min()) if played else None,
            "return_max": float(self.returns.max()) if played else None,
            "length_mean": float(self.lengths.mean()) if played else None,
            "episodes": int(self.returns.size),
            "greedy_return_mean": float(self.greedy_returns.mean()) if greedy else None,
            "cut_episodes": self.cut_episodes,
            "greedy_cut_episodes": self.greedy_cut_episodes,
        }

    def __repr__(self) -> str:
        settings = f" {format_setting(self.settings)}" if self.settings else ""
        score = f", mean return {self.returns.mean():.1f} ± {self.returns.std():.1f}" if self.returns.size else ""
        greedy = f", greedy {self.greedy_returns.mean():.1f}" if self.greedy_returns.size else ""
        reason = f" ({self.reason})" if self.reason else ""
        return f"<seed {self.seed}{settings}: {self.status}{reason}, {self.env_steps:,} steps{score}{greedy}>"


@dataclass(frozen=True, repr=False)
class Result:
    """What `pgzoo.run` returns: a row per seed (and setting of a sweep), the training history and the policies.

    `pending` counts the records that are not in MLflow yet, `error` is the exception that ended the whole run, and
    `steps_before` is the number of training steps that a resumed run had done before.
    """

    group: str
    experiment: str
    tracking_uri: str
    plan: Plan
    runs: tuple[SeedResult, ...]
    timing: Mapping[str, float]
    pending: tracking.Pending
    ended: RunEnded
    session: tracking.Session
    steps_before: int = 0
    error: RunFailed | None = None
    lost_members: frozenset[int] = frozenset()
    """Rows of `runs` without a policy: their process died before it saved one."""
    over: float = 0.0
    """When training and evaluation were over, by `time.monotonic()`."""
    verifications: tuple[Verification, ...] = ()
    """The comparisons of the seeds that two workers trained, with the setting `verify`."""

    @property
    def verified(self) -> bool:
        """Whether no seed that two workers trained has different results."""
        return all(one.outcome != "different" for one in self.verifications)

    @property
    def status(self) -> MemberStatus:
        """The worst status of any seed."""
        return max((run.status for run in self.runs), key=BADNESS.index)

    @property
    def env_steps(self) -> int:
        """Environment steps in training, summed over seeds."""
        return sum(run.env_steps for run in self.runs)

    @property
    def speed(self) -> float:
        """Environment steps per second of the training loop, summed over seeds."""
        wall = self.timing["loop"]
        return (self.env_steps - self.steps_before) / wall if wall else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serializable dict that `--json` prints."""
        wall = self.timing["loop"]
        return {
            "group": self.group,
            "experiment": self.experiment,
            "tracking_uri": tracking.display_uri(self.tracking_uri),
            "algorithm": self.plan.config.algorithm,
            "env": self.plan.config.env,
            "status": self.status,
            "env_steps": self.env_steps,
            "wall_seconds": wall,
            "steps_per_second": self.speed,
            "seeds": [run.to_dict() for run in self.runs],
            "timing": {phase: seconds for phase, seconds in self.timing.items() if phase != "loop"},
            **({"verified": [asdict(one) for one in self.verifications]} if self.plan.config.verify else {}),
            **({"profile": self.ended.profile()} if self.plan.config.profile else {}),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a data frame with one row per seed; a sweep adds a column for each setting that it varied."""
        import pandas as pd

        rows = [run.to_dict() for run in self.runs]
        return pd.DataFrame([{"seed": row.pop("seed"), **row.pop("settings", {}), **row} for row in rows])

    @cached_property
    def histories(self) -> tuple[History, ...]:
        """The journal of each row of `runs`: its training episodes, metrics and evaluations."""
        from pgzoo.tracking.report import read_history

        return tuple(read_history(self.session.home.runs / run.run_key) for run in self.runs)

    @cached_property
    def diagnoses(self) -> tuple[list[Diagnosis], ...]:
        """What the metrics of each row of `runs` say about why it learned little; empty if they look healthy."""
        from pgzoo.tracking.diagnoses import diagnose

        return tuple(map(diagnose, self.histories))

    @property
    def scores(self) -> NDArray[np.float64]:
        """Mean return of the final evaluation with sampled actions, `[rows]`; NaN without an evaluation."""
        return np.array([run.returns.mean() if run.returns.size else np.nan for run in self.runs])

    @property
    def history(self) -> pd.DataFrame:
        """The learning curves as a data frame: one row per seed and logged step, one column per metric."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"seed": run.seed, **run.settings, "env_step": step, **history.metrics[step]}
                for run, history in zip(self.runs, self.histories, strict=True)
                for step in sorted(history.metrics)
            ]
        )

    def plot(self) -> Figure:
        """Return the learning curve as a matplotlib figure, which a notebook displays.

        With one seed it shows each training episode and their moving average, with several seeds the moving average
        of each seed and their mean, in a sweep in one color per setting.
        """
        from pgzoo.tracking import plots

        if len(self.runs) == 1:
            (history,) = self.histories
            subtitle = f"seed {self.runs[0].seed} · {len(history.returns):,} training episodes"
            return plots.learning_curve(
                history.steps, history.returns, title=self._title, subtitle=subtitle, threshold=history.threshold
            )
        curves: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
        for run, history in zip(self.runs, self.histories, strict=True):
            smooth = plots.moving_average(history.returns, min(100, max(1, len(history.returns) // 10)))
            thin = np.unique(np.linspace(0, len(smooth) - 1, min(len(smooth), 300)).astype(int))
            curves.setdefault(format_setting(run.settings), []).append(
                (np.array(history.steps, np.int64)[thin], smooth[thin])
            )
        ylabel = "return of training episodes, moving average"
        return plots.learning_curves(curves, title=self._title, subtitle="thin lines: seeds", ylabel=ylabel)

    def policy(self, seed: int | None = None, setting: Setting | None = None) -> LoadedPolicy:
        """Return the policy with the last parameters of a seed (of the last checkpoint if its process died).

        `seed` can be left out if the run has one seed. In a sweep, `setting` selects one of its settings, such as
        `{"learning_rate": 3e-4}`.

        Raises:
            ConfigError: The arguments match no row of `runs`, or several, or no policy was saved.
        """
        return self._policy(self._row(seed, setting))

    def evaluate(
        self, *, episodes: int = 100, deterministic: bool = False, per_episode: bool = False, env: str | None = None
    ) -> pd.DataFrame:
        """Evaluate the policy of every seed again and return a data frame with one row per seed.

        With the number of episodes of the final evaluation, the episodes are the same. See `pgzoo.evaluate`.

        Raises:
            ConfigError: No policy of a seed was saved.
            EnvError, UnfitError: The environment `env` can't be created, or has other spaces.
        """
        from pgzoo.play.evaluation import PlayablePolicy
        from pgzoo.play.frames import evaluate_all
        from pgzoo.registry import discover

        c = self.plan.config
        backend = c.backend if env is None else "auto"
        policies = [
            PlayablePolicy(
                self._name(row),
                self._policy(row),
                run.seed,
                backend,
                max_steps=c.eval_max_steps,
                algorithm=c.algorithm,
            )
            for row, run in enumerate(self.runs)
        ]
        mode: EvaluationMode = "greedy" if deterministic else "sampled"
        return evaluate_all(policies, discover(), episodes=episodes, mode=mode, per_episode=per_episode, env=env)

    def video(
        self,
        path: str | Path | None = None,
        *,
        seed: int | None = None,
        setting: Setting | None = None,
        episodes: int = 1,
        deterministic: bool = False,
    ) -> VideoFile:
        """Record episodes as an MP4 file and return it; a notebook shows it inline.

        `path` defaults to `NAME-sSEED.mp4` in the working directory; in a sweep, the name also has the setting.
        `seed` and `setting` select a policy, as in `policy`.

        Raises:
            ConfigError: As for `policy`, or `episodes` is out of range.
            UsageError: The extra `video` is not installed, the folder of `path` doesn't exist, or `path` doesn't end in
                .mp4.
            EnvError: The environment can't render images.
        """
        from pgzoo.play.evaluation import check_count
        from pgzoo.play.video import record, require_extra
        from pgzoo.training.seeding import generator

        require_extra("Result.video")
        check_count("episodes", episodes)
        row = self._row(seed, setting)
        run, policy = self.runs[row], self._policy(row)
        file = Path(path or re.sub(r"[^\w.-]+", "-", self._name(row)) + ".mp4")
        if not file.absolute().parent.is_dir():
            raise UsageError(f"{file}: there is no folder {file.parent}.")
        if file.suffix.lower() != ".mp4":
            raise UsageError(f"{file}: give a name that ends in .mp4.")
        returns = record(
            policy,
            self.plan.request(1),
            file,
            rng=generator(run.seed, "video"),
            episodes=episodes,
            deterministic=deterministic,
        )
        return VideoFile(file, tuple(returns))

    def _row(self, seed: int | None, setting: Setting | None) -> int:
        given = (setting or {}).items()
        rows = [row for row, run in enumerate(self.runs) if seed in (None, run.seed) and given <= run.settings.items()]
        if len(rows) != 1:
            which = "" if seed is None else f" of seed {seed}"
            which += f" with {format_setting(dict(given))}" if given else ""
            known = "; ".join(dict.fromkeys(format_setting(run.settings) for run in self.runs))
            seeds = ", ".join(map(str, dict.fromkeys(run.seed for run in self.runs)))
            settings = f" Settings: {known}." if known else ""
            what = f"There are {len(rows)} policies{which}; give a seed{' and a setting' * bool(known)}"
            what = what if rows else f"There is no policy{which} in this run"
            raise ConfigError(f"{what}. Seeds: {seeds}.{settings}")
        return rows[0]

    def _policy(self, row: int) -> LoadedPolicy:
        if row in self.lost_members:
            raise ConfigError(f"Seed {self.runs[row].seed} has no policy: its process died before it saved one.")
        params = select(self.plan.policy_params(self.ended.state), [row])
        return LoadedPolicy(self.plan.config.policy, self.plan.spec, self.plan.policy, params, self.plan.request(1))

    def _name(self, row: int) -> str:
        """Return the name of a row's run: with its seed, and in a sweep with its setting."""
        return f"{self.plan.config.name or self.plan.config.algorithm} {self.plan.members[row].label}"

    @property
    def _title(self) -> str:
        return f"{self.plan.config.algorithm} on {self.plan.config.env}"

    @property
    def _caption(self) -> str:
        return f"{self._title}: {self.status}, {self.env_steps:,} steps, {self.speed:,.0f} steps/s, group {self.group}"

    def __repr__(self) -> str:
        rows = [f"  {run}" for run in self.runs[:MAX_SHOWN]]
        if len(self.runs) > MAX_SHOWN:
            rows.append(f"  and {len(self.runs) - MAX_SHOWN} more; see .to_frame()")
        return "\n".join([f"<Result {self._caption}", *rows]) + ">"

    def _repr_html_(self) -> str:
        head = ["seed", *self.runs[0].settings, "status", "steps", "mean return", "std", "greedy mean return"]
        rows = []
        for run in self.runs:
            numbers = run.to_dict()
            returns = (numbers[key] for key in ("return_mean", "return_std", "greedy_return_mean"))
            cells = ["" if value is None else f"{value:,.1f}".replace("-", "−") for value in returns]
            settings = [str(value) for value in run.settings.values()]
            rows.append([str(run.seed), *settings, run.status, f"{run.env_steps:,}", *cells])
        return html_table(self._caption, head, rows)

    def format_shipping(self) -> str:
        """Return what the tracker is doing now, and how much is left to do."""
        return tracking.format_shipping(self.session.pending(), self.tracking_uri)

    def settled(self, wait: float | None = None) -> Result:
        """Wait until all records are in MLflow; return the result with the MLflow run ids.

        Wait at most `wait` seconds, by default `EXIT_WAIT`, or `FAILED_WAIT` if no step was trained: the error message
        is printed after this.
        """
        default = EXIT_WAIT if self.env_steps else FAILED_WAIT
        pending = self.session.close(default if wait is None else wait)
        return replace(self, runs=tuple(map(self._identified, self.runs)), pending=pending)

    def _identified(self, run: SeedResult) -> SeedResult:
        found = local_run(self.session.home.runs / run.run_key, self.session.home)
        return replace(run, run_id=found.run_id if found else None)


HUGE = 1e15
"""A loss beyond this is no loss of rewards that anybody uses: the square of returns of thirty million."""


class ResultBuilder:
    """Collects from the events of a run what its result needs."""

    def __init__(self, steps_before: int = 0) -> None:
        """`steps_before` are the training steps of a resumed run before it was resumed."""
        self._steps_before = steps_before
        self._final: dict[tuple[str, int], Evaluated] = {}
        self._ended: RunEnded | None = None
        self._over = time.monotonic()
        self._losses: dict[str, Any] = {}

    def record(self, event: object) -> None:
        """Keep the final evaluations, the largest losses and the end of the run."""
        if isinstance(event, UpdateDone):
            for name, values in event.metrics.items():
                if name.startswith("loss/"):
                    sizes = np.where(event.active & np.isfinite(values), np.abs(values), 0.0)
                    self._losses[name] = np.maximum(sizes, self._losses.get(name, 0.0))
        if isinstance(event, Evaluated) and event.final:
            self._final |= {(event.mode, int(row)): event for row in np.flatnonzero(event.active)}
        elif isinstance(event, RunEnded):
            self._ended, self._over = event, time.monotonic()

    def warn_of_divergence(self, plan: Plan) -> None:
        """Warn of seeds whose training diverged, though every number in it is finite."""
        for row, member in enumerate(plan.members):
            large = [f"{name} reached {size[row]:.1e}" for name, size in self._losses.items() if size[row] > HUGE]
            if large:
                _log.warning(
                    "The training of seed %s has diverged: %s. Try a smaller learning rate, or "
                    "smaller rewards (--normalize-reward).",
                    *(member.seed, ", ".join(large)),
                )

    def result(
        self,
        context: RunContext,
        pending: tracking.Pending,
        error: RunFailed | None,
        lost_members: frozenset[int] = frozenset(),
    ) -> Result:
        """Return the result; call it after the run has ended."""
        plan, session, ended = context.plan, context.session, self._ended
        assert ended is not None, "training always ends with RunEnded"
        empty = np.zeros(0)

        def played(mode: str, what: str, row: int) -> Any:
            event = self._final.get((mode, row))
            return empty if event is None else getattr(event, what)[row]

        def cut(mode: str, row: int) -> int:
            event = self._final.get((mode, row))
            return 0 if event is None or event.cut is None else int(event.cut[row])

        runs = tuple(
            SeedResult(
                seed=member.seed,
                settings=member.overrides,
                run_key=key,
                run_id=None,
                status=ended.statuses[row],
                reason=ended.reasons[row],
                env_steps=int(ended.env_steps[row]),
                returns=played("sampled", "returns", row),
                lengths=played("sampled", "lengths", row),
                greedy_returns=played("greedy", "returns", row),
                cut_episodes=cut("sampled", row),
                greedy_cut_episodes=cut("greedy", row),
            )
            for row, (member, key) in enumerate(zip(plan.members, plan.run_keys, strict=True))
        )
        return Result(
            plan.group,
            context.experiment,
            session.tracking_uri,
            plan,
            runs,
            ended.timing,
            pending,
            ended,
            session,
            self._steps_before,
            error,
            lost_members,
            self._over,
        )
