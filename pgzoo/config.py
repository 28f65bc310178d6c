"""Settings: one source for the command line, YAML files, Python keywords and what is logged.

A run's settings have one nested form everywhere:

    algorithm: reinforce            # run keys and the algorithm's own keys side by side
    env: CartPole-v1
    seeds: [0, 1, 2]
    learning_rate: 0.01
    policy: {name: mlp, hidden: [64, 64]}
    estimator: reward-to-go         # a component may be just its name

Layers of settings are laid over each other (pgzoo's defaults < the algorithm's < preset < file < options), and
the result is validated once, before anything is created.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from pgzoo.errors import ConfigError, UnknownName, did_you_mean

if TYPE_CHECKING:
    from pgzoo.registry import Catalog, Entry, Kind

__all__ = [
    "ActionConfig",
    "ActorCriticConfig",
    "AlgorithmConfig",
    "CGSteps",
    "ClipRange",
    "Component",
    "ComponentConfig",
    "CriticSteps",
    "Damping",
    "EntropyCoef",
    "Epochs",
    "Layer",
    "LearningRate",
    "LearningRateSchedule",
    "MaxGradNorm",
    "Minibatches",
    "NormalizeAdvantages",
    "OptimizerEps",
    "OptimizerName",
    "RolloutSteps",
    "RunConfig",
    "SearchConfig",
    "Settings",
    "ValueCoef",
    "check_keys",
    "look_up",
    "read_yaml",
    "resolve",
    "resolve_component",
]


class Settings(BaseModel):
    """Frozen, strict about names, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class ComponentConfig(Settings):
    """Base of the settings of a policy or an estimator."""


class ActionConfig(ComponentConfig):
    """Base of the settings of a policy that ends in one of pgzoo's distributions over actions."""

    distribution: Annotated[
        Literal["auto", "categorical", "multi-categorical", "bernoulli", "gaussian", "tanh", "beta"],
        Field(description="over actions; auto: what fits the space, gaussian for Box"),
    ] = "auto"
    log_std: Annotated[float, Field(description="initial log standard deviation, for Box actions")] = 0.0
    state_std: Annotated[
        bool, Field(description="the standard deviation depends on the state, for gaussian and tanh")
    ] = False
    rescale: Annotated[
        bool, Field(description="gaussian actions in [-1, 1] fill the Box, else they are clipped to it")
    ] = False


LearningRate = Annotated[float, Field(gt=0, description="step size of the optimiser")]
LearningRateSchedule = Annotated[
    Literal["constant", "linear"], Field(description="keep the step size, or anneal it to 0 at the last step")
]
OptimizerName = Annotated[Literal["adam", "rmsprop", "sgd"], Field(description="first-order optimiser")]
OptimizerEps = Annotated[
    float | None, Field(gt=0, description="keeps its denominators from 0; default: adam 1e-8, rmsprop 1e-5")
]
MaxGradNorm = Annotated[
    float | None, Field(gt=0, description="clip each seed's gradient to this norm; none: don't clip")
]
RolloutSteps = Annotated[PositiveInt, Field(description="steps that each environment plays per update")]
Epochs = Annotated[PositiveInt, Field(description="times that an update goes through what was collected")]
Minibatches = Annotated[PositiveInt, Field(description="parts that an epoch goes through it in, a gradient step each")]
NormalizeAdvantages = Annotated[bool, Field(description="shift and scale to mean 0 and deviation 1, per gradient step")]
ValueCoef = Annotated[float, Field(ge=0, description="weight of the critic's loss, half the squared error")]
ClipRange = Annotated[float, Field(gt=0, description="how far the ratio may leave 1 and still gain")]
EntropyCoef = Annotated[float, Field(ge=0, description="weight of an entropy bonus")]
CriticSteps = Annotated[PositiveInt, Field(description="gradient steps of the critic per update, on everything")]
CGSteps = Annotated[PositiveInt, Field(description="steps of the conjugate gradient, a Fisher product each")]
Damping = Annotated[float, Field(ge=0, description="added to the diagonal of the Fisher matrix")]


class SearchConfig(Settings):
    """Base of the settings of an algorithm that takes no gradient steps."""


class AlgorithmConfig(Settings):
    """Base of the settings of an algorithm that learns by gradient: what the engine needs to take a gradient step.

    A default is changed by naming the field again: `learning_rate: LearningRate = 3e-4`.
    """

    learning_rate: LearningRate = 1e-3
    learning_rate_schedule: LearningRateSchedule = "constant"
    optimizer: OptimizerName = "adam"
    optimizer_eps: OptimizerEps = None
    max_grad_norm: MaxGradNorm = None


class ActorCriticConfig(AlgorithmConfig):
    """Base of the settings of an algorithm that collects windows and learns a critic beside the policy."""

    rollout_steps: RolloutSteps = 128
    value_coef: ValueCoef = 0.5
    entropy_coef: EntropyCoef = 0.0
    max_grad_norm: MaxGradNorm = 0.5


class Component(Settings):
    """A policy or an estimator: its name and its own settings."""

    name: str
    settings: SerializeAsAny[ComponentConfig]

    def nested(self) -> dict[str, Any]:
        """Return the user's form, `{"name": ..., **settings}`."""
        return {"name": self.name, **self.settings.model_dump(mode="json")}


def _count_or_list(value: Any) -> Any:
    """Read `10` (how many) or `3,5,8` (which); used for seeds."""
    if isinstance(value, str):
        text = value.strip()
        value = [part for part in text.split(",") if part.strip()] if "," in text else text
    if isinstance(value, str | int) and not isinstance(value, bool):
        try:
            count = int(value)
        except ValueError:
            raise ValueError("give a count (10: seeds 0 to 9) or a list (3,5,8)") from None
        if count < 1:
            raise ValueError("give at least one seed")
        return tuple(range(count))
    return value


class RunConfig(Settings):
    """Everything that decides a run, fully resolved. Build it with `resolve`."""

    algorithm: Annotated[str, Field(description="what learns (pgzoo algorithms)")]
    env: Annotated[str, Field(description="gymnasium id of the environment (pgzoo envs)", min_length=1)]
    seeds: Annotated[
        tuple[NonNegativeInt, ...],
        Field(description="how many (10: 0 to 9) or which (3,5,8); default: seed 0", min_length=1),
    ] = (0,)
    total_steps: Annotated[
        PositiveInt | None, Field(description="environment steps per seed; ends with the first update at or past it")
    ] = None
    total_episodes: Annotated[
        PositiveInt | None, Field(description="episodes per seed; ends with the first update at or past it")
    ] = None
    num_envs: Annotated[PositiveInt, Field(description="environments side by side, per seed")] = 8
    gamma: Annotated[float, Field(ge=0, le=1, description="discount factor")] = 0.99
    env_kwargs: Annotated[dict[str, Any], Field(description="keyword for the environment, K=V; repeat for more")] = {}
    max_episode_steps: Annotated[
        PositiveInt | None, Field(description="truncate episodes here; default: the environment's own limit")
    ] = None
    normalize_obs: Annotated[
        bool, Field(description="shift and scale observations to mean 0 and deviation 1; part of the policy")
    ] = False
    normalize_reward: Annotated[
        bool, Field(description="divide rewards by the deviation of the discounted return, for learning alone")
    ] = False
    backend: Annotated[
        str, Field(description="how environments run: auto, sync, async, native; auto: native where it fits, else sync")
    ] = "auto"
    eval_every: Annotated[
        NonNegativeInt, Field(description="evaluate each time so many steps are taken; 0: only at the end")
    ] = 0
    eval_episodes: Annotated[PositiveInt, Field(description="episodes of an evaluation, sampled and again greedy")] = (
        100
    )
    checkpoint_every: Annotated[
        NonNegativeInt | None,
        Field(description="keep a checkpoint each time so many steps are taken; 0: only at the end; default: by time"),
    ] = None
    stop_at: Annotated[
        float | None, Field(description="stop a seed when its last 100 training episodes have this mean return")
    ] = None
    stop_on_plateau: Annotated[
        PositiveInt | None,
        Field(
            description="stop a seed when so many steps gave no better mean return of its last 100 training episodes"
        ),
    ] = None
    max_minutes: Annotated[PositiveFloat | None, Field(description="stop every seed after so many minutes")] = None
    log_every: Annotated[PositiveInt, Field(description="environment steps between two points of a curve")] = 1000
    experiment: Annotated[
        str | None, Field(description="MLflow experiment; default: MLFLOW_EXPERIMENT_NAME or pgzoo/ENV")
    ] = None
    name: Annotated[str | None, Field(description="name of the runs; default: the algorithm's")] = None
    tags: Annotated[dict[str, str], Field(description="MLflow tag, K=V; repeat for more")] = {}
    tracking_uri: Annotated[
        str | None, Field(description="MLflow store; default: MLFLOW_TRACKING_URI or ./mlflow.db")
    ] = None
    threads: Annotated[
        PositiveInt,
        Field(description="CPU threads for torch; more seldom help, and may cost a seed its being the same alone"),
    ] = 1
    compile: Annotated[
        Literal["auto", "on", "off"],
        Field(description="compile the gradient step; auto: where a run is long enough to gain by it"),
    ] = "auto"
    profile: Annotated[bool, Field(description="tell where the time went, and keep it with the run")] = False
    video: Annotated[bool, Field(description="record an evaluation episode as MP4")] = False
    policy: Component
    estimator: Component
    settings: SerializeAsAny[Settings]

    @field_validator("seeds", mode="before")
    @classmethod
    def _read_seeds(cls, value: Any) -> Any:
        return _count_or_list(value)

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("give at least one seed")
        if len(set(value)) < len(value):
            raise ValueError("a seed is given twice; the same seed gives the same run")
        return value

    @model_validator(mode="after")
    def _has_an_end(self) -> RunConfig:
        if self.total_steps is None and self.total_episodes is None:
            raise ValueError("the run has no end: give total_steps or total_episodes")
        return self

    def nested(self) -> dict[str, Any]:
        """Return the user's form, ready for YAML: `resolve` gives the same config for it."""
        own = _told(self, exclude={"policy", "estimator", "settings"})
        return own | _told(self.settings) | {"policy": self.policy.nested(), "estimator": self.estimator.nested()}

    def flat(self) -> dict[str, str]:
        """Return what is logged as parameters: dotted keys, always the same ones for the same components."""
        return dict(_flatten(self._decisive()))

    def setting_hash(self) -> str:
        """Return a name for the setting: equal for runs that differ in nothing but seeds and labels."""
        return hashlib.sha256(json.dumps(self._decisive(), sort_keys=True).encode()).hexdigest()[:12]

    def _decisive(self) -> dict[str, Any]:
        return {key: value for key, value in self.nested().items() if key not in UNLOGGED and value is not None}


UNLOGGED = frozenset({"seeds", "name", "tags", "experiment", "tracking_uri", "video", "checkpoint_every", "profile"})
"""Run keys that don't change what is learned, or that a run bears elsewhere."""

RUN_KEYS = frozenset(RunConfig.model_fields) - {"settings"}
RESERVED = frozenset(
    {"seed", "settings", "preset", "config", "json", "env_kwarg", "tag", "import", "no_plugin", "no_progress"}
)


def _told(settings: Settings, **kwargs: Any) -> dict[str, Any]:
    """Settings as JSON has them. None is told only where it was given: it may take the place of a default."""
    values = settings.model_dump(mode="json", **kwargs)
    return {key: value for key, value in values.items() if value is not None or key in settings.model_fields_set}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Layer:
    """Settings from one place. `where(path)` says, for a message, where the key at `path` was given."""

    values: Mapping[str, Any]
    where: Callable[[tuple[str, ...]], str]


def _named(layer: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a component's part of a layer as a mapping; a bare name becomes `{"name": name}`."""
    part = layer.get(key, {})
    if part is None or isinstance(part, str):
        return {} if part is None else {"name": part}
    if not isinstance(part, Mapping):
        raise ConfigError(f"{key} is a name or a mapping with a name, not {part!r}.")
    return dict(part)


def resolve(layers: Sequence[Layer], catalog: Catalog) -> RunConfig:
    """Lay `layers` over the defaults, the first lowest, and validate the result.

    Raises:
        UnknownName: no such algorithm, policy, estimator or backend.
        ConfigError: an unknown key or a bad value, each with where it was given.
    """
    named = next((layer for layer in reversed(layers) if "algorithm" in layer.values), None)
    algorithm = named.values["algorithm"] if named else None
    if named is None or not isinstance(algorithm, str):
        raise ConfigError("No algorithm is given. Name one: pgzoo run ALGO --env ID. See: pgzoo algorithms")
    entry = look_up(catalog, "algorithm", algorithm, named.where(("algorithm",)))
    target, settings_model = entry.load(), entry.load_config() or AlgorithmConfig
    check_keys(entry, settings_model)
    defaults = {"estimator": target.estimator, "policy": "mlp", **getattr(target, "defaults", {})}
    layers = [Layer(defaults, lambda path: f'default of algorithm "{entry.name}"'), *layers]

    errors: list[str] = []
    components = {kind: _component(kind, layers, catalog, errors) for kind in ("policy", "estimator")}
    merged, origin = _merge(layers, settings_model)
    own = {key: merged.pop(key) for key in list(merged) if key in settings_model.model_fields}
    known = RUN_KEYS | set(settings_model.model_fields)
    for key in [key for key in merged if key not in known]:
        merged.pop(key)
        errors.append(
            f"{origin(key)}: no setting of that name.{did_you_mean(key, known)} See: pgzoo run {algorithm} --help"
        )
    settings = _validate(settings_model, own, origin, errors)
    placeholders = {kind: part or Component.model_construct() for kind, part in components.items()}
    run = {**merged, **placeholders, "settings": settings or AlgorithmConfig()}
    config = _validate(RunConfig, run, origin, errors)
    if errors:
        raise ConfigError("\n".join(errors))
    if config.backend != "auto":
        catalog.get("env_backend", config.backend)
    assert isinstance(config, RunConfig)
    return config


def look_up(catalog: Catalog, kind: Kind, name: str, where: str) -> Entry:
    """Look a name up; one that is unknown is told with the line of the file that it stands on."""
    try:
        return catalog.get(kind, name)
    except UnknownName as error:
        raise UnknownName(f"{where}: {error}" if ", line " in where else str(error)) from None


def _merge(layers: Sequence[Layer], settings_model: type[BaseModel]) -> tuple[dict[str, Any], Callable[[str], str]]:
    """Lay the flat keys over each other; mappings (env_kwargs, tags) are merged key by key."""
    merged: dict[str, Any] = {}
    source: dict[str, tuple[Layer, str]] = {}
    for layer in layers:
        values = {key: value for key, value in layer.values.items() if key not in ("policy", "estimator")}
        said = dict.fromkeys(values, "")
        if "seed" in values:
            if "seeds" in values:
                raise ConfigError(f"{layer.where(('seed',))}: seed and seeds exclude each other.")
            values["seeds"], said["seeds"] = (values.pop("seed"),), "seed"
        for key, value in values.items():
            if key in ("env_kwargs", "tags") and isinstance(value, Mapping):
                value = {**merged.get(key, {}), **value}
            merged[key], source[key] = value, (layer, said[key] or key)
        # a layer that sets one of the two ends takes the place of a lower layer's other end
        for end, other in (("total_episodes", "total_steps"), ("total_steps", "total_episodes")):
            if values.get(end) is not None and other not in values:
                merged.pop(other, None)

    def origin(key: str) -> str:
        layer, name = source.get(key, (None, key))
        return layer.where((name,)) if layer else name

    return merged, origin


def resolve_component(
    kind: Literal["policy", "estimator"], named: str | Mapping[str, Any], catalog: Catalog
) -> tuple[Component, Any]:
    """Return one component, and its class or function, from its nested form.

    Raises:
        UnknownName, ConfigError: as `resolve`.
    """
    errors: list[str] = []
    component = _component(kind, [Layer({kind: named}, ".".join)], catalog, errors)
    if component is None or errors:
        raise ConfigError("\n".join(errors))
    return component, catalog.get(kind, component.name).load()


def _component(
    kind: Literal["policy", "estimator"], layers: Sequence[Layer], catalog: Catalog, errors: list[str]
) -> Component | None:
    """Resolve a policy or an estimator. A layer that names another one drops the settings of those below it."""
    values: dict[str, Any] = {}
    source: dict[str, Layer] = {}
    for layer in layers:
        part = _named(layer.values, kind)
        if "name" in part and part["name"] != values.get("name"):
            values, source = {}, {}
        values.update(part)
        source.update(dict.fromkeys(part, layer))
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{kind} needs a name. See: pgzoo {'policies' if kind == 'policy' else 'estimators'}")
    where = source["name"].where((kind,)) if "name" in source else kind
    model = look_up(catalog, kind, name, where).load_config() or ComponentConfig

    def origin(key: str) -> str:
        return source[key].where((kind, key)) if key in source else f"{kind}.{key}"

    for key in [key for key in values if key not in model.model_fields]:
        values.pop(key)
        hint = did_you_mean(key, model.model_fields)
        errors.append(f'{origin(key)}: {kind} "{name}" has no setting of that name.{hint}')
    settings = _validate(model, values, origin, errors)
    return None if settings is None else Component(name=name, settings=settings)


def _validate(model: Any, values: Mapping[str, Any], origin: Callable[[str], str], errors: list[str]) -> Any:
    """Build the model, or add one line per mistake to `errors` and return None."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = [str(part) for part in detail["loc"]]
            message = detail["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
            message = (message[:1].lower() + message[1:]).replace("input should be", "must be", 1)
            if not path:
                errors.append(message)
            elif detail["type"] == "missing":
                errors.append(f"{path[0]} is missing: give --{path[0].replace('_', '-')}")
            else:
                errors.append(f"{origin(path[0])}: {message} (got {_said(detail['input'])})")
        return None


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else "none" if value is None else repr(value)


def check_keys(entry: Entry, model: type[BaseModel]) -> None:
    """Raise ConfigError if an algorithm has a setting with the name of a run key or of an option of the program."""
    clash = sorted(set(model.model_fields) & (RUN_KEYS | RESERVED))
    if clash:
        raise ConfigError(
            f'Algorithm "{entry.name}" of plugin {entry.plugin} has a setting named {", ".join(clash)}, '
            "which belongs to the run. Its author must rename it."
        )


TEXT = "tag:yaml.org,2002:str"


def read_yaml(path: str | Path) -> Layer:
    """Read a file of settings.

    Raises:
        ConfigError: it can't be read, is no YAML, has a key twice, or isn't a mapping; with the line.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"Can't read the settings in {path}: {reason}.") from error
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except ValueError as error:  # a date that is none, say
        raise ConfigError(f"{path}: not valid YAML: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}.") from error
    if root is None:
        return Layer({}, lambda _: str(path))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        keys = [key for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        odd = next((key for key in keys if key.tag != TEXT), root)
        line_of_odd = odd.start_mark.line + 1
        raise ConfigError(f"{path}, line {line_of_odd}: expected settings as `key: value`, such as `env: CartPole-v1`.")
    lines = dict(_lines(root, (), path))

    def where(key: tuple[str, ...]) -> str:
        line = lines.get(key) or lines.get(key[:1])
        return f"{path}, line {line}: {'.'.join(key)}" if line else f"{path}: {'.'.join(key)}"

    return Layer(values, where)


def _lines(node: Any, prefix: tuple[str, ...], path: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """Walk a YAML mapping: key paths and the lines on which they stand."""
    seen: set[str] = set()
    for key, value in node.value if node.id == "mapping" else ():
        line = key.start_mark.line + 1
        if key.value in seen:
            raise ConfigError(f"{path}, line {line}: {'.'.join((*prefix, key.value))} is given twice.")
        seen.add(key.value)
        yield (*prefix, key.value), line
        yield from _lines(value, (*prefix, key.value), path)
