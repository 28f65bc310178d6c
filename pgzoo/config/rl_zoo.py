"""Hyperparameter files of rl-baselines3-zoo, translated to settings of pgzoo.

Such a file has a section per environment, with the arguments of Stable-Baselines3's algorithm and of RL Zoo itself:

    CartPole-v1:
      n_envs: 8
      n_timesteps: !!float 1e5
      policy: 'MlpPolicy'
      n_steps: 32
      learning_rate: lin_0.001
      policy_kwargs: "dict(log_std_init=-2, activation_fn=nn.ReLU)"

Keys that a section leaves out have Stable-Baselines3's default, which may differ from pgzoo's.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgzoo.config.files import Layer
from pgzoo.config.validation import shorten
from pgzoo.errors import ConfigError

__all__ = ["Translation", "is_rl_zoo", "translate"]

COMMON = {"n_timesteps": "total_steps", "gamma": "gamma", "frame_stack": "frame_stack", "env_kwargs": "env_kwargs"}
ACTOR_CRITIC = {
    **COMMON,
    "n_envs": "num_envs",
    "n_steps": "rollout_steps",
    "gae_lambda": "estimator.lam",
    "normalize_advantage": "normalize_advantages",
}
LOSS = {**ACTOR_CRITIC, "ent_coef": "entropy_coef", "max_grad_norm": "max_grad_norm"}
SAME_MEANING: Mapping[str, Mapping[str, str]] = {
    "ppo": {**LOSS, "n_epochs": "epochs", "target_kl": "target_kl", "clip_range_vf": "clip_value"},
    "a2c": {**LOSS, "rms_prop_eps": "optimizer_eps"},
    "trpo": {
        **ACTOR_CRITIC,
        "target_kl": "max_kl",
        "cg_max_steps": "cg_steps",
        "cg_damping": "damping",
        "n_critic_updates": "critic_steps",
        "line_search_max_iter": "line_search_steps",
        "line_search_shrinking_factor": "line_search_shrink",
    },
    "ars": {**COMMON, "delta_std": "noise_std", "n_top": "top"},
}
"""By algorithm, the keys whose values need no conversion, and pgzoo's names for them."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ppo": {
        "n_envs": 1,
        "n_timesteps": 1_000_000,
        "n_steps": 2048,
        "batch_size": 64,
        "n_epochs": 10,
        "learning_rate": 3e-4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "normalize_advantage": True,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
    },
    "a2c": {
        "n_envs": 1,
        "n_timesteps": 1_000_000,
        "n_steps": 5,
        "learning_rate": 7e-4,
        "gamma": 0.99,
        "gae_lambda": 1.0,
        "normalize_advantage": False,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "use_rms_prop": True,
        "rms_prop_eps": 1e-5,
    },
    "trpo": {
        "n_envs": 1,
        "n_timesteps": 1_000_000,
        "n_steps": 2048,
        "learning_rate": 1e-3,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "normalize_advantage": True,
        "target_kl": 0.01,
        "cg_max_steps": 15,
        "cg_damping": 0.1,
        "n_critic_updates": 10,
        "line_search_max_iter": 10,
        "line_search_shrinking_factor": 0.8,
    },
    "ars": {"n_timesteps": 1_000_000, "n_delta": 8, "learning_rate": 0.02, "delta_std": 0.05},
}
"""Defaults of Stable-Baselines3 2.x and sb3-contrib 2.x."""

WITHOUT_EFFECT = [("use_sde", False), ("sub_sampling_factor", 1), ("alive_bonus_offset", 0)]
"""Keys with a value that asks for what pgzoo does anyway."""

POLICIES = {
    "MlpPolicy": "mlp",
    "MultiInputPolicy": "mlp",
    "LinearPolicy": "linear",
    "CnnPolicy": "cnn",
    "MlpLstmPolicy": "lstm",
}
ACTIVATIONS = {
    "Tanh": "tanh",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "SiLU": "silu",
    "GELU": "gelu",
    "Softplus": "softplus",
    "Identity": "identity",
}
ATARI = "stable_baselines3.common.atari_wrappers.AtariWrapper"
VERSION = re.compile(r"-v(\d+)$")
SETTINGS_WITH_PARTS = ("policy", "estimator", "env_kwargs", "tags", "sweep_axis")


@dataclass
class Translation:
    """Settings of pgzoo from one section of an RL Zoo file, and the keys of it that they don't cover."""

    section: str
    settings: dict[str, Any] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """Setting -> the key of the section that it comes from."""

    def put(self, setting: str, value: Any, key: str) -> None:
        """Add a setting, `policy.NAME` and `estimator.NAME` as part of the component."""
        part, _, name = setting.rpartition(".")
        if part:
            self.settings.setdefault(part, {})[name] = value
        else:
            self.settings[name] = value
        self.keys[setting] = self.keys[part or setting] = key


def is_rl_zoo(values: Mapping[str, Any]) -> bool:
    """Return whether a settings file consists of sections, each with a name that is no setting of pgzoo."""
    return bool(values) and all(
        isinstance(section, Mapping) and name not in SETTINGS_WITH_PARTS for name, section in values.items()
    )


def translate(path: str, file: Layer, algorithm: str, env: str) -> tuple[Layer, Translation]:
    """Translate the section for `env` of the RL Zoo file at `path`, whose content is `file`.

    If no section has this name, that of another version of the environment is used, or else `atari` for an Atari game,
    or else `default`.

    Raises:
        ConfigError: there is no such section, a value can't be read, or the algorithm isn't among the supported ones.
    """
    if algorithm not in SAME_MEANING:
        supported = ", ".join(SAME_MEANING)
        raise ConfigError(
            f'{path} has hyperparameters of RL Zoo, which pgzoo can use for {supported}, not for "{algorithm}".'
        )
    name = _section(path, list(file.values), env)

    def where(key: str) -> str:
        return file.where((name, key))

    found = Translation(name)
    given = {key: value for key, value in file.values[name].items() if (key, value) not in WITHOUT_EFFECT}
    rest = {**DEFAULTS[algorithm], **given}
    for key, setting in SAME_MEANING[algorithm].items():
        if key in rest:
            found.put(setting, rest.pop(key), key)
    _translate_numbers(rest, algorithm, found, where)
    _translate_normalization(rest, found, where)
    _translate_wrappers(rest, found, where)
    _translate_policy(rest, algorithm, found, where)
    found.unused += [str(key) for key in rest if key in given]
    layer = Layer(found.settings, lambda path: where(found.keys.get(".".join(path), found.keys.get(path[0], path[0]))))
    return layer, found


def _section(path: str, names: Sequence[str], env: str) -> str:
    """Return which of the sections is for `env`. Raises ConfigError if there is none."""
    if env in names:
        return env
    versions = {name: VERSION.search(name) for name in names if VERSION.sub("", name) == VERSION.sub("", env)}
    if numbers := {int(found[1]): name for name, found in versions.items() if found}:
        return numbers[max(numbers)]
    atari = env.startswith("ALE/") or "NoFrameskip" in env
    for fallback in ["atari", "default"] if atari else ["default"]:
        if fallback in names:
            return fallback
    raise ConfigError(f'{path} has no section for "{env}". It has: {", ".join(names)}.')


def _translate_numbers(rest: dict[str, Any], algorithm: str, found: Translation, where: Callable[[str], str]) -> None:
    """Translate the keys whose values are converted, and remove them from `rest`."""
    for key, setting in (("learning_rate", "learning_rate"), ("clip_range", "clip_range")):
        if key not in rest or (key == "clip_range" and algorithm != "ppo"):
            continue
        text = rest.pop(key)
        linear = isinstance(text, str) and text.startswith("lin_")
        found.put(setting, number(text.removeprefix("lin_") if linear else text, where(key)), key)
        if algorithm != "ars":
            found.put(f"{setting}_schedule", "linear" if linear else "constant", key)
        elif linear:
            found.unused.append(f"{key}: its decay")
    if algorithm == "ppo":
        rows = number(found.settings["num_envs"], where("n_envs")) * number(
            found.settings["rollout_steps"], where("n_steps")
        )
        size = number(rest.pop("batch_size"), where("batch_size"))
        if size <= 0:
            raise ConfigError(f"{where('batch_size')}: must be greater than 0 (got {size:g})")
        ratio = number(rows / size, f"{where('n_envs')} * n_steps / batch_size")
        found.put("minibatches", max(1, round(ratio)), "batch_size")
    if algorithm in ("ppo", "a2c"):  # half the mean squared error in pgzoo, all of it in Stable-Baselines3
        found.put("value_coef", 2 * number(rest.pop("vf_coef"), where("vf_coef")), "vf_coef")
    if algorithm == "a2c":
        found.put("optimizer", "rmsprop" if rest.pop("use_rms_prop") else "adam", "use_rms_prop")
    if algorithm == "trpo":
        found.put("optimizer_eps", 1e-5, "policy")
    if algorithm == "ars":
        found.put("num_envs", 2 * int(number(rest.pop("n_delta"), where("n_delta"))), "n_delta")
        rest.pop("n_envs", None)  # the number of workers, which doesn't change the result


def number(value: Any, where: str) -> float:
    """Return a finite number, also from its text. Raises ConfigError."""
    try:
        if not isinstance(value, bool) and math.isfinite(found := float(value)):
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise ConfigError(f"{where}: must be a finite number (got {shorten(repr(value))})")


def _translate_normalization(rest: dict[str, Any], found: Translation, where: Callable[[str], str]) -> None:
    for key in ("normalize", "normalize_kwargs"):
        if key not in rest:
            continue
        value = rest.pop(key)
        options = value if isinstance(value, bool) else _mapping(value, where(key))
        if isinstance(options, bool):
            options = {"norm_obs": options, "norm_reward": options}
        elif key == "normalize":
            options = {"norm_obs": True, "norm_reward": True, **options}
        for option, setting in (("norm_obs", "normalize_obs"), ("norm_reward", "normalize_reward")):
            if option in options:
                found.put(setting, options.pop(option), key)
        found.unused += [f"{key}.{option}" for option in options]


def _translate_wrappers(rest: dict[str, Any], found: Translation, where: Callable[[str], str]) -> None:
    wrappers = rest.pop("env_wrapper", None)
    used = []
    for wrapper in wrappers if isinstance(wrappers, list) else [wrappers] if wrappers else []:
        name = next(iter(wrapper)) if isinstance(wrapper, Mapping) and wrapper else str(wrapper)
        if wrapper == ATARI:
            used.append("gymnasium.wrappers:AtariPreprocessing")
            kwargs = _mapping(found.settings.get("env_kwargs", {}), where("env_kwargs"))
            found.put("env_kwargs", {"frameskip": 1, **kwargs}, "env_wrapper")
            found.unused.append("env_wrapper AtariWrapper (only its clipped rewards, and lives as episodes)")
        elif isinstance(wrapper, str) and wrapper.startswith(("gymnasium.wrappers.", "gym.wrappers.")):
            used.append(f"gymnasium.wrappers:{wrapper.rpartition('.')[2]}")
        else:
            found.unused.append(f"env_wrapper {name}")
    if used:
        found.put("wrappers", tuple(used), "env_wrapper")


def _translate_policy(rest: dict[str, Any], algorithm: str, found: Translation, where: Callable[[str], str]) -> None:
    key, kwargs = "policy_kwargs", _mapping(rest.pop("policy_kwargs", {}), where("policy_kwargs"))
    named = rest.pop("policy", "LinearPolicy" if algorithm == "ars" else "MlpPolicy")
    if not isinstance(named, str) or named not in POLICIES:
        raise ConfigError(
            f"{where('policy')}: pgzoo has no policy for {shorten(repr(named))}; it knows {', '.join(POLICIES)}"
        )
    policy = POLICIES[named]
    found.put("policy.name", policy, "policy")
    if policy == "mlp" and algorithm == "ars":  # sb3-contrib's ARS has another default than its other algorithms
        found.put("policy.activation", "relu", "policy")
    explores = policy in ("mlp", "linear") and bool(rest.get("use_sde"))
    if explores:
        del rest["use_sde"]
        found.put("policy.sde", True, "use_sde")
        every = number(rest.pop("sde_sample_freq", -1), where("sde_sample_freq"))
        found.put("policy.sde_sample_freq", int(every) if every > 0 else None, "sde_sample_freq")
    if "log_std_init" in kwargs or explores:
        log_std = number(kwargs.pop("log_std_init", 0.0), where(key))
        features = (dict(_layers(kwargs.get("net_arch"))).get("hidden") or [64])[-1]
        # with gSDE, pgzoo's log_std is that of the first actions, and Stable-Baselines3's that of each feature's noise
        scale = 0.5 * math.log(max(1.0, number(features, where(key)))) if explores else 0.0
        found.put("policy.log_std", log_std + scale, key)
    if isinstance(kwargs.get("ortho_init"), bool):
        found.put("policy.init", "orthogonal" if kwargs.pop("ortho_init") else "default", key)
    if policy == "mlp":
        activation = str(kwargs.get("activation_fn")).rpartition(".")[2]
        if activation in ACTIVATIONS:
            found.put("policy.activation", ACTIVATIONS[activation], key)
            del kwargs["activation_fn"]
        for setting, sizes in _layers(kwargs.get("net_arch")):
            found.put(f"policy.{setting}", sizes, key)
            kwargs.pop("net_arch", None)
    found.unused += [f"policy_kwargs {name}" for name in kwargs]


def _layers(architecture: Any) -> Iterator[tuple[str, list[int]]]:
    """Yield the sizes of the hidden layers that `net_arch` asks for; nothing if pgzoo has no such network."""
    if isinstance(architecture, list) and len(architecture) == 1 and isinstance(architecture[0], Mapping):
        architecture = architecture[0]  # the form before Stable-Baselines3 1.8
    if isinstance(architecture, list) and not any(isinstance(size, Mapping) for size in architecture):
        yield "hidden", architecture
    elif (
        isinstance(architecture, Mapping)
        and set(architecture) == {"pi", "vf"}
        and all(isinstance(sizes, list) for sizes in architecture.values())
    ):
        yield "hidden", architecture["pi"]
        yield "critic_hidden", architecture["vf"]


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a mapping, also from the text of one, such as `dict(net_arch=[64, 64])`; no code in it is run.

    Raises:
        ConfigError: the text has anything but literals, calls of `dict`, and names such as `nn.ReLU`.
    """
    if isinstance(value, str):
        try:
            value = _literal(ast.parse(value.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = f" ({error})" if isinstance(error, ValueError) else ""
            raise ConfigError(f"{where}: expected text such as dict(net_arch=[64, 64]){reason}.") from None
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected text such as dict(net_arch=[64, 64]) (got {shorten(repr(value))}).")
    return {str(key): part for key, part in value.items()}


def _literal(node: ast.expr) -> Any:
    """Return the value of an expression; a name is its own text. Raises ValueError for anything that does something."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() | ast.Attribute():
            return ast.unparse(node)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple():
            return [_literal(element) for element in node.elts]
        case ast.Dict() if None not in node.keys:
            return {_literal(key): _literal(part) for key, part in zip(node.keys, node.values, strict=True) if key}
        case ast.Call(func=ast.Name(id="dict"), args=[]) if all(keyword.arg for keyword in node.keywords):
            return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    raise ValueError(f"{shorten(ast.unparse(node))} isn't a literal")
