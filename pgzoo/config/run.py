"""All settings of a run, as one frozen model."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from os import PathLike, fspath
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from pgzoo.config.settings import ComponentConfig, Settings
from pgzoo.config.sweep import Setting, format_setting, grid
from pgzoo.config.validation import normalize, validate
from pgzoo.errors import ConfigError

__all__ = [
    "EVAL_MAX_STEPS",
    "MERGED",
    "RESERVED",
    "RUN_KEYS",
    "WRAPPER",
    "Component",
    "Member",
    "RunConfig",
    "overridden",
]


class Component(Settings):
    """A policy or an estimator: its name and its own settings."""

    name: str
    settings: SerializeAsAny[ComponentConfig]

    def nested(self) -> dict[str, Any]:
        """Return the component as in a settings file, `{"name": ..., **settings}`."""
        return {"name": self.name, **self.settings.model_dump(mode="json")}


COUNT_OR_LIST = "give a count (10: seeds 0 to 9) or a list (3,5,8)"


def _count_or_list(value: Any) -> Any:
    """Parse seeds: `10` means 0 to 9, `3,5,8` is a list."""
    if isinstance(value, str) and "," in value:
        value = [part for part in value.split(",") if part.strip()]
    if isinstance(value, str | float | Integral) and not isinstance(value, bool):
        count = normalize(value, int)
        try:
            if isinstance(count, float):
                raise ValueError
            count = int(count)
        except ValueError:
            raise ValueError(COUNT_OR_LIST) from None
        if count < 1:
            raise ValueError("give at least one seed")
        if count > MAX_MEMBERS:
            raise ValueError(f"give at most {MAX_MEMBERS:,} seeds")
        return tuple(range(count))
    if isinstance(value, bool | Mapping) or not isinstance(value, Iterable):
        raise ValueError(COUNT_OR_LIST)
    return value


EVAL_MAX_STEPS = 100_000
"""Default of `eval_max_steps`."""

WRAPPER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

MAX_MEMBERS = 10_000
"""Members (seeds times settings of a sweep) of one run."""


class RunConfig(Settings):
    """All settings of a run, fully resolved. Create it with `resolve`."""

    algorithm: Annotated[str, Field(description="the algorithm (pgzoo algorithms)")]
    env: Annotated[str, Field(description="gymnasium id of the environment (pgzoo envs)", min_length=1)]
    seeds: Annotated[
        tuple[NonNegativeInt, ...],
        Field(description="number of seeds (10 means 0 to 9) or a list (3,5,8); default: seed 0"),
    ] = (0,)
    sweep_axis: Annotated[
        dict[str, tuple[float, ...]],
        Field(description="train every seed with each of these values, in one batch; repeat for a grid"),
    ] = {}
    total_steps: Annotated[
        PositiveInt | None, Field(description="environment steps per seed; ends with the first update at or past it")
    ] = None
    total_episodes: Annotated[
        PositiveInt | None, Field(description="episodes per seed; ends with the first update at or past it")
    ] = None
    num_envs: Annotated[PositiveInt, Field(description="parallel environments per seed")] = 8
    gamma: Annotated[float, Field(ge=0, le=1, description="discount factor")] = 0.99
    env_kwargs: Annotated[
        dict[str, Any], Field(description="keyword argument for the environment, K=V; repeat for more")
    ] = {}
    wrappers: Annotated[
        tuple[str, ...] | None,
        Field(description="gymnasium wrapper around the environment, as module:Class; repeat for more, in order"),
    ] = None
    frame_stack: Annotated[
        int | None, Field(ge=2, description="observe the last N observations, stacked in a new first dimension")
    ] = None
    max_episode_steps: Annotated[
        PositiveInt | None, Field(description="truncate episodes here; default: the environment's own limit")
    ] = None
    normalize_obs: Annotated[
        bool,
        Field(
            description="normalize observations to mean 0 and standard deviation 1, clipped to +-10; part of the policy"
        ),
    ] = False
    normalize_reward: Annotated[
        bool,
        Field(
            description="divide rewards by the standard deviation of the discounted return, clipped to +-10 (training "
            "only)"
        ),
    ] = False
    backend: Annotated[
        str,
        Field(description="environment backend: auto, sync, async, native, compiled, or a plugin's; see pgzoo envs ID"),
    ] = "auto"
    eval_every: Annotated[
        NonNegativeInt, Field(description="environment steps between evaluations; 0: only at the end")
    ] = 0
    eval_episodes: Annotated[PositiveInt, Field(description="episodes per evaluation and mode (sampled, greedy)")] = 100
    eval_max_steps: Annotated[PositiveInt, Field(description="maximum number of steps of an evaluation episode")] = (
        EVAL_MAX_STEPS
    )
    save_best: Annotated[
        bool, Field(description="also save the policy with the best mean return in an evaluation, as policy-best")
    ] = False
    checkpoint_every: Annotated[
        NonNegativeInt | None,
        Field(description="environment steps between checkpoints; 0: only at the end; default: every 30 seconds"),
    ] = None
    stop_at: Annotated[
        float | None,
        Field(description="stop a seed when the mean return of its last 100 training episodes reaches this"),
    ] = None
    stop_on_plateau: Annotated[
        PositiveInt | None,
        Field(description="stop a seed after this many steps without a better mean return of 100 training episodes"),
    ] = None
    max_minutes: Annotated[PositiveFloat | None, Field(description="stop after this many minutes")] = None
    log_every: Annotated[PositiveInt, Field(description="environment steps between two points of a curve")] = 1000
    diagnostics: Annotated[
        tuple[str, ...], Field(description="measure these during training, without changing it (pgzoo diagnostics)")
    ] = ()
    diagnostics_every: Annotated[PositiveInt, Field(description="updates between two measurements of diagnostics")] = 10
    experiment: Annotated[
        str | None, Field(description="MLflow experiment; default: MLFLOW_EXPERIMENT_NAME or pgzoo/ENV")
    ] = None
    name: Annotated[str | None, Field(description="name of the runs; default: the algorithm's")] = None
    tags: Annotated[dict[str, str], Field(description="MLflow tag, K=V; repeat for more")] = {}
    tracking_uri: Annotated[
        Literal["none"] | str | None,  # "none" is text here: it doesn't mean the default
        Field(description="MLflow store; none: without MLflow; default: MLFLOW_TRACKING_URI or ./mlflow.db"),
    ] = None
    device: Annotated[
        Literal["cpu", "cuda"],
        Field(description="device on which policies act and learn; cuda is for large networks or many seeds"),
    ] = "cpu"
    threads: Annotated[
        PositiveInt,
        Field(description="CPU threads of torch and numpy; more rarely help, and results may depend on other seeds"),
    ] = 1
    launcher: Annotated[
        str,
        Field(description="where seeds are trained: local, all in this process; processes, over several processes"),
    ] = "local"
    workers: Annotated[
        PositiveInt | None, Field(description="number of processes that the launcher starts; default: one per CPU core")
    ] = None
    rollout_workers: Annotated[
        NonNegativeInt,
        Field(
            description="number of processes that share the training environments and step them, at most num_envs; 0: "
            "the process that trains steps them; the results are the same"
        ),
    ] = 0
    cpus_per_shard: Annotated[
        PositiveInt | None,
        Field(description="CPUs that a cluster launcher reserves for each worker; default: --threads"),
    ] = None
    gpus_per_shard: Annotated[
        float | None,
        Field(ge=0, description="GPUs that a cluster launcher reserves for each worker; default: 1 with --device cuda"),
    ] = None
    verify: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of the launcher's workers whose seeds are trained twice, on another machine if there is "
            "one; a difference is an error",
        ),
    ] = 0.0
    compile: Annotated[
        Literal["auto", "on", "off"],
        Field(description="compile the gradient step; auto: if the run is long enough to benefit"),
    ] = "auto"
    profile: Annotated[bool, Field(description="print and log where time was spent")] = False
    video: Annotated[bool, Field(description="record an evaluation episode as MP4")] = False
    init_from: Annotated[
        str | None,
        Field(description="start with the policy weights and observation normalizer of this run or saved policy"),
    ] = None
    policy: Component
    estimator: Component
    settings: SerializeAsAny[Settings]
    _asked: frozenset[str] = PrivateAttr(default=frozenset())

    @field_validator("seeds", mode="before")
    @classmethod
    def _read_seeds(cls, value: Any) -> Any:
        return _count_or_list(value)

    @field_validator("init_from", mode="before")
    @classmethod
    def _read_path(cls, value: Any) -> Any:
        return fspath(value) if isinstance(value, PathLike) else value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("give at least one seed")
        if len(set(value)) < len(value):
            raise ValueError("a seed is given twice; the same seed gives the same run")
        if max(value) >= 2**63:  # the records of a run would be refused
            raise ValueError(f"a seed may be at most {2**63 - 1}")
        return value

    @field_validator("name", "experiment", "tags", mode="after")
    @classmethod
    def _encodable(cls, value: Any) -> Any:
        for text in [part for item in value.items() for part in item] if isinstance(value, dict) else [value or ""]:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("must be valid UTF-8, which tracking stores require")
            if not isinstance(value, dict) and any(ord(character) < 32 or ord(character) == 127 for character in text):
                raise ValueError("must not contain control characters, such as a line break")
        return value

    @field_validator("diagnostics", mode="before")
    @classmethod
    def _one_diagnostic(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("wrappers", mode="before")
    @classmethod
    def _one_wrapper(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) and value.lower() != "none" else value

    @field_validator("wrappers")
    @classmethod
    def _wrapper_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if not WRAPPER.fullmatch(name):
                raise ValueError(f'"{name}" is no wrapper; expected module:Class, such as gymnasium.wrappers:...')
        return names or None

    @field_validator("env_kwargs")
    @classmethod
    def _plain_data(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, part in value.items():
            if (odd := _not_plain(part)) is not None:
                raise ValueError(
                    f"{key} has a {type(odd).__name__}, and keywords must be plain data (numbers, text, lists, "
                    "mappings), because they are kept with the run. Register an environment that makes the object "
                    "itself: gymnasium.register(ID, entry_point=a function that returns the environment)"
                )
        return value

    @field_validator("sweep_axis")
    @classmethod
    def _distinct_values(cls, axes: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for key, values in axes.items():
            if not values:
                raise ValueError(f"{key} has no value; give one or more, such as {key}=0.1,0.2")
            if len(set(values)) < len(values):
                raise ValueError(f"{key} has a value twice; the same setting gives the same run")
        return axes

    @model_validator(mode="after")
    def _has_an_end(self) -> RunConfig:
        if self.total_steps is None and self.total_episodes is None:
            raise ValueError("the run has no end: give total_steps or total_episodes")
        if self.save_best and not self.eval_every:
            raise ValueError("save_best compares evaluations during training: give eval_every as well")
        members = len(self.seeds) * math.prod(len(values) for values in self.sweep_axis.values())
        if members > MAX_MEMBERS:
            raise ValueError(f"seeds and sweep_axis give {members:,} members; a run has at most {MAX_MEMBERS:,}")
        return self

    @property
    def asked(self) -> frozenset[str]:
        """The settings of the policy that the user gave by name, not those from files, of trials and of other runs."""
        return self._asked

    def asking(self, names: Iterable[str]) -> RunConfig:
        """Return the config with these names as `asked`."""
        config = self.model_copy()
        config._asked = frozenset(names)
        return config

    def nested(self) -> dict[str, Any]:
        """Return the settings as in a settings file; `resolve` converts them back to an equal config."""
        own = _json(self, exclude={"policy", "estimator", "settings"}) | _json(self.settings)
        estimator = self.estimator.nested()
        for key in self.sweep_axis or ("sweep_axis",):  # a swept setting has several values
            part, name = (estimator, key.partition(".")[2]) if "." in key else (own, key)
            part.pop(name, None)
        return own | {"policy": self.policy.nested(), "estimator": estimator}

    def flat(self) -> dict[str, str]:
        """Return the logged parameters, with dotted keys. The keys depend only on the components."""
        return dict(_flatten(self._decisive()))

    def at(self, setting: Setting) -> RunConfig:
        """Return the config of a run of this setting alone. Raises ConfigError."""
        if not setting and not self.sweep_axis:
            return self
        errors: list[str] = []
        config = overridden(self, setting, errors)
        if config is None:
            raise ConfigError("\n".join(errors))
        return config

    def member(self, seed: int, setting: Setting) -> Member:
        """Return the member of a seed and a setting. Raises ConfigError."""
        return Member(self.at(setting).model_copy(update={"seeds": (seed,)}), setting)

    def members(self) -> tuple[Member, ...]:
        """Return every seed with each setting of the sweep, setting by setting."""
        return tuple(self.member(seed, setting) for setting in grid(self.sweep_axis) for seed in self.seeds)

    def setting_hash(self) -> str:
        """Return a hash of the settings, equal for runs that differ only in seeds and labels."""
        return hashlib.sha256(json.dumps(self._decisive(), sort_keys=True).encode()).hexdigest()[:12]

    def _decisive(self) -> dict[str, Any]:
        return {key: value for key, value in self.nested().items() if key not in UNLOGGED and value is not None}


@dataclass(frozen=True)
class Member:
    """One seed, or one seed and setting of a sweep. `config` is the config of the member's run alone."""

    config: RunConfig
    overrides: Setting = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed from which all random streams of the member are derived."""
        return self.config.seeds[0]

    @property
    def label(self) -> str:
        """The part of the run name after the algorithm: `s3`, `learning_rate=0.0003 s3`."""
        return f"{format_setting(self.overrides)} s{self.seed}".strip()

    def run_key(self, group: str) -> str:
        """Return the key of the member's run, which is unique."""
        own = "".join(f"{key}-{value}-".replace("+", "") for key, value in self.overrides.items())
        return f"{group}-{own}s{self.seed}"


UNLOGGED = frozenset(
    {
        "seeds",
        "sweep_axis",
        "name",
        "tags",
        "experiment",
        "tracking_uri",
        "video",
        "save_best",
        "checkpoint_every",
        "profile",
        "diagnostics",
        "diagnostics_every",
        "launcher",
        "workers",
        "cpus_per_shard",
        "gpus_per_shard",
        "verify",
        "rollout_workers",
    }
)
"""Settings of the run that aren't logged as parameters: they don't affect learning, or are recorded elsewhere."""

MERGED = ("env_kwargs", "tags", "sweep_axis")
"""Settings that are mappings; layers are merged key by key."""

RUN_KEYS = frozenset(RunConfig.model_fields) - {"settings"}
RESERVED = frozenset(
    {
        "seed",
        "settings",
        "preset",
        "config",
        "json",
        "env_kwarg",
        "tag",
        "wrapper",
        "import",
        "no_plugin",
        "no_progress",
    }
)


def _not_plain(value: Any) -> Any:
    """Return the first part of a value that isn't plain data, or None."""
    if isinstance(value, Mapping):
        odd_key = next((key for key in value if not isinstance(key, str)), None)
        return odd_key or next((odd for part in value.values() if (odd := _not_plain(part)) is not None), None)
    if isinstance(value, list | tuple):
        return next((odd for part in value if (odd := _not_plain(part)) is not None), None)
    return None if value is None or isinstance(value, bool | int | float | str) else value


def _json(settings: Settings, **kwargs: Any) -> dict[str, Any]:
    """Return settings as JSON data. None is included only if it was set explicitly, since it may override a default."""
    values = settings.model_dump(mode="json", **kwargs)
    return {key: value for key, value in values.items() if value is not None or key in settings.model_fields_set}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)


def overridden(config: RunConfig, setting: Setting, errors: list[str], where: str = "") -> RunConfig | None:
    """Return a config with some settings overridden; if invalid, None, and append a line per mistake to `errors`."""

    def laid(settings: Settings, over: Mapping[str, Any], prefix: str = "") -> Any:
        def origin(key: str) -> str:
            return f"{where}{prefix}{key}"

        given = {key: getattr(settings, key) for key in settings.model_fields_set}
        return validate(type(settings), {**given, **over}, origin, errors)

    of_run = {key: value for key, value in setting.items() if key in RUN_KEYS}
    of_estimator = {key.removeprefix("estimator."): value for key, value in setting.items() if "." in key}
    own = {key: value for key, value in setting.items() if key not in RUN_KEYS and "." not in key}
    settings, estimator = laid(config.settings, own), laid(config.estimator.settings, of_estimator, "estimator.")
    if settings is None or estimator is None:
        return None
    component = config.estimator.model_copy(update={"settings": estimator})
    return laid(config, {**of_run, "sweep_axis": {}, "settings": settings, "estimator": component})  # type: ignore[no-any-return]
