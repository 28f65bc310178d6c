"""`pgzoo run`: its help, its settings and its error messages. Nothing is trained here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import pgzoo
from pgzoo.cli import main
from pgzoo.config import RunConfig
from pgzoo.errors import UsageError

ANIMALS = Path(__file__).parents[1] / "e2e" / "animals.py"
CARTPOLE = ("reinforce", "--env", "CartPole-v1")


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main.program, ["run", *arguments], prog_name="pgzoo", env=env)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, in which nothing may be created."""
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PGZOO_"))]:
        monkeypatch.delenv(name)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


# name: arguments, text that the message must contain
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "algorithm": (("reinfroce", "--env", "CartPole-v1"), 'No algorithm "reinfroce". Did you mean "reinforce"?'),
    "policy": ((*CARTPOLE, "--policy", "mpl"), 'No policy "mpl". Did you mean "mlp"? See: pgzoo policies'),
    "estimator": ((*CARTPOLE, "--estimator", "notebok"), 'No estimator "notebok". Did you mean "notebook"?'),
    "preset": ((*CARTPOLE, "--preset", "notebok"), 'No preset "notebok". Did you mean "notebook"?'),
    "preset file": ((*CARTPOLE, "--preset", "not_there.yml"), "Can't read the settings in not_there.yml: No such file"),
    "backend": ((*CARTPOLE, "--backend", "natve"), 'No environment backend "natve". Did you mean "native"?'),
    "environment": (("reinforce", "--env", "CartPol-v1"), 'Did you mean "CartPole-v1"? See: pgzoo envs'),
    "old environment": (("reinforce", "--env", "LunarLander-v2"), 'Use "LunarLander-v3", which replaced it.'),
    "no environment": (("reinforce",), "env is missing: give --env ID. See: pgzoo envs"),
    "empty environment": (("reinforce", "--env", ""), "--env: must not be empty"),
    "environment keyword": ((*CARTPOLE, "--env-kwarg", "sutton_barto=1"), 'Did you mean "sutton_barto_reward"?'),
    "pair": ((*CARTPOLE, "--env-kwarg", "x"), "'--env-kwarg': expected K=V, got 'x'"),
    "axis": ((*CARTPOLE, "--sweep-axis", "gama=0.9,1"), '--sweep-axis: "gama" isn\'t a setting. Did you mean "gamma"?'),
    "static axis": (
        (*CARTPOLE, "--sweep-axis", "num-envs=1,2"),
        '"num_envs" has one value for all members. Settings that can be swept: learning_rate,',
    ),
    "axis without values": ((*CARTPOLE, "--sweep-axis", "gamma"), "'--sweep-axis': expected K=A,B,..., got 'gamma'"),
    "axis given twice": ((*CARTPOLE, *2 * ("--sweep-axis", "gamma=1")), "gamma is given twice; give all its values"),
    "value of an axis": ((*CARTPOLE, "--sweep-axis", "gamma=0.9,2"), "--sweep-axis: gamma: must be less than or equal"),
    "axis and value": ((*CARTPOLE, "--sweep-axis", "gamma=0.9", "--gamma", "1"), "gamma is also given a single value"),
    "option": ((*CARTPOLE, "--learnig-rate", "1"), "Did you mean one of: '--learning-rate'"),
    "option of a component": ((*CARTPOLE, "--policy.hiden", "3"), "'--policy.hidden'"),
    "name of other libraries": ((*CARTPOLE, "--lr", "1"), "No such option '--lr'. Did you mean --learning-rate?"),
    "underscores": (
        (*CARTPOLE, "--learning_rate=1"),
        "No such option '--learning_rate'. Did you mean --learning-rate?",
    ),
    "setting of others": (
        (*CARTPOLE, "--n-steps", "8"),
        "The equivalent option is --rollout-steps, but pgzoo run reinforce doesn't have it.",
    ),
    "option given twice": ((*CARTPOLE, "--gamma", "1", "--gamma=0.9"), "--gamma is given twice; give one value."),
    "flag and its opposite": ((*CARTPOLE, "--gamma-t", "--no-gamma-t"), "--no-gamma-t is given twice"),
    "surplus": ((*CARTPOLE, "more"), "unexpected extra argument (more)"),
    "no value": ((*CARTPOLE, "--gamma"), "'--gamma' requires an argument"),
    "type": ((*CARTPOLE, "--learning-rate", "fast"), "--learning-rate: must be a valid number (got 'fast')"),
    "range": ((*CARTPOLE, "--gamma", "2"), "--gamma: must be less than or equal to 1 (got '2')"),
    "not a number": ((*CARTPOLE, "--gamma", "nan"), "--gamma: must be a finite number"),
    "none": ((*CARTPOLE, "--gamma", "none"), "--gamma: must be a valid number (got none)"),
    "choice": ((*CARTPOLE, "--policy.activation", "tahn"), "'tahn' is not one of 'tanh'"),
    "zero": ((*CARTPOLE, "--total-steps", "0"), "--total-steps: must be greater than 0 (got 0)"),
    "negative": ((*CARTPOLE, "--num-envs", "-1"), "--num-envs: must be greater than 0 (got -1)"),
    "fraction": ((*CARTPOLE, "--num-envs", "1.5"), "--num-envs: must be a valid integer (got '1.5')"),
    "layer": ((*CARTPOLE, "--policy.hidden", "64,x"), "--policy.hidden: must be a valid integer (got 'x')"),
    "both seeds": ((*CARTPOLE, "--seed", "1", "--seeds", "2"), "--seed and --seeds can't be combined"),
    "seed": ((*CARTPOLE, "--seed", "-1"), "'--seed': expected a whole number, 0 or greater, got '-1'"),
    "half a seed": ((*CARTPOLE, "--seed", "1.5"), "'--seed': expected a whole number, 0 or greater, got '1.5'"),
    "no seeds": ((*CARTPOLE, "--seeds", "0"), "--seeds: give at least one seed"),
    "seed twice": ((*CARTPOLE, "--seeds", "1,2,1"), "--seeds: a seed is given twice"),
    "what seeds": ((*CARTPOLE, "--seeds", "some"), "--seeds: give a count (10: seeds 0 to 9) or a list (3,5,8)"),
    "pixels": (("reinforce", "--env", "Pixels-v0"), 'policy "mlp" doesn\'t fit the observation space Box(0, 255'),
    "words": (("reinforce", "--env", "Words-v0"), "Text isn't supported (no policy can be saved for it)"),
    "backend that can't": (("reinforce", "--env", "Mixed-v0", "--backend", "native"), "Use --backend auto."),
    "preset of another": (
        ("nan", "--import", str(ANIMALS), "--env", "CartPole-v1", "--preset", "notebook"),
        "is for algorithm reinforce, not nan",
    ),
    "clashing setting": (
        ("clash", "--import", str(ANIMALS), "--env", "CartPole-v1"),
        "a setting named gamma, which is the name of a run setting",
    ),
    "code not there": (("gone", "--import", str(ANIMALS), "--env", "CartPole-v1"), "No module named 'not_there'"),
    "no plugin": ((*CARTPOLE, "--no-plugin", "exmple"), 'No plugin "exmple" to block'),
    "no import": ((*CARTPOLE, "--import", "not_there"), "--import not_there failed. ModuleNotFoundError"),
    "no file": ((*CARTPOLE, "--import", "not_there.py"), "There is no file"),
    "no algorithm": (("--env", "CartPole-v1"), "The algorithm comes first: pgzoo run ALGO --env ID"),
    "store": ((*CARTPOLE, "--tracking-uri", "bogus://x"), 'unsupported scheme "bogus"'),
    "server": ((*CARTPOLE, "--tracking-uri", "http://"), "expected http(s)://HOST[:PORT]"),
    "unwritable store": ((*CARTPOLE, "--tracking-uri", "sqlite:////proc/no/x.db"), "Can't write to the folder of"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_error_message_and_leaves_no_files(mistake: str, here: Path) -> None:
    arguments, message = MISTAKES[mistake]
    done = run(*arguments[:1], "--import", str(ANIMALS), *arguments[1:]) if "reinf" in arguments[0] else run(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(re.findall("^Error:", done.stderr, re.MULTILINE)) == 1 and "Traceback" not in done.output
    assert "Error: " in done.stderr.splitlines()[-1] and "Note: " not in done.stderr
    assert not done.stdout
    assert not list(here.iterdir())


# name: text of the file, text that must follow the file's name in the message
FILES: dict[str, tuple[str, str]] = {
    "no YAML": ("algorithm: reinforce\nenv: [CartPole-v1\n", ", line 3: not valid YAML: expected ',' or ']'"),
    "twice": ("algorithm: reinforce\nenv: a\nenv: b\n", ", line 3: env is given twice."),
    "no mapping": ("- a\n- b\n", ", line 1: expected settings as `key: value`"),
    "unknown key": (
        "algorithm: reinforce\nenv: CartPole-v1\ngama: 1\n",
        ", line 3: gama: no setting of that name. Did",
    ),
    "unknown part": (
        "algorithm: reinforce\nenv: CartPole-v1\npolicy:\n  name: mlp\n  hiden: [3]\n",
        ', line 5: policy.hiden: policy "mlp" has no setting of that name. Did you mean "hidden"?',
    ),
    "type": (
        "algorithm: reinforce\nenv: CartPole-v1\n\ngamma: x\n",
        ", line 4: gamma: must be a valid number (got 'x')",
    ),
    "both ends": ("algorithm: reinforce\nenv: CartPole-v1\nseeds: [1, 1]\n", ", line 3: seeds: a seed is given twice"),
}


@pytest.mark.parametrize("mistake", FILES)
def test_a_mistake_in_a_file_is_reported_with_its_line(mistake: str, here: Path, tmp_path: Path) -> None:
    text, message = FILES[mistake]
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    done = run("--config", str(file))
    assert done.exit_code == 2
    assert f"Error: {file}{message}" in done.stderr, done.stderr
    assert not list(here.iterdir())


@pytest.mark.parametrize(("data", "reason"), [(None, "No such file"), (b"\xff\xfe", "it is not UTF-8 text")])
def test_a_settings_file_that_cannot_be_read_is_an_error(
    data: bytes | None, reason: str, here: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    if data:
        file.write_bytes(data)
    done = run("reinforce", "--config", str(file))
    assert done.exit_code == 2 and f"Can't read the settings in {file}: {reason}" in done.stderr


def test_all_mistakes_are_reported_at_once(here: Path) -> None:
    done = run(*CARTPOLE, "--gamma", "2", "--num-envs", "0", "--policy.hidden", "0")
    assert len(done.stderr.strip().splitlines()) == 3, done.stderr


@pytest.mark.parametrize("home", ["/proc/pgzoo", "{file}", "{file}/below"])
def test_an_unwritable_pgzoo_home_is_an_error_with_advice(home: str, here: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(*CARTPOLE, env={"PGZOO_HOME": home.format(file=tmp_path / "file")})
    assert done.exit_code == 2 and "Can't write to pgzoo's folder" in done.stderr
    assert "set PGZOO_HOME to a folder that you may write to" in done.stderr


@pytest.mark.parametrize(
    ("built", "message"),
    [(None, "was built without CUDA. Use --device cpu, or install"), ("12.8", "finds no GPU here.")],
)
def test_a_missing_gpu_and_an_invalid_device_are_errors(
    built: str | None, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    done = run(*CARTPOLE, "--preset", "none", "--device", "cuda")
    assert done.exit_code == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    with pytest.raises(UsageError, match="--device cuda: torch"):
        pgzoo.run("reinforce", env="CartPole-v1", total_steps=10, device="cuda")
    assert "'gpu' is not one of 'cpu', 'cuda'" in run(*CARTPOLE, "--device", "gpu").stderr
    with pytest.raises(UsageError, match="device: must be 'cpu' or 'cuda'"):
        pgzoo.run("reinforce", env="CartPole-v1", total_steps=10, device="gpu")
    assert not list(here.iterdir())


def test_a_missing_extra_is_an_error_with_the_command_that_installs_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)  # as if it weren't installed
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d", raising=False)
    done = run("reinforce", "--env", "LunarLander-v3")
    assert done.exit_code == 2 and 'Install it: pip install "pgzoo[box2d]"' in done.stderr
    monkeypatch.setattr("pgzoo.play.video.present", lambda extra: False)
    done = run(*CARTPOLE, "--video")
    assert done.exit_code == 2 and 'Install it: pip install "pgzoo[video]"' in done.stderr
    assert not list(here.iterdir())


@pytest.fixture
def configured(here: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return `configured(*arguments)`: the config with which the command would run."""

    def configured(*arguments: str) -> RunConfig:
        taken: list[RunConfig] = []

        def take(config: RunConfig, *_: Any, **__: Any) -> None:
            taken.append(config)
            raise UsageError("enough")

        monkeypatch.setattr("pgzoo.runs.runner.run_config", take)
        done = run(*arguments)
        assert "enough" in done.stderr, done.stderr
        return taken[0]

    return configured


# arguments: path of the setting in the nested config, expected value
READ: dict[tuple[str, ...], tuple[str, Any]] = {
    ("--policy.hidden", "32,16"): ("policy.hidden", [32, 16]),
    ("--policy.hidden", "32"): ("policy.hidden", [32]),
    ("--policy.hidden", ""): ("policy.hidden", []),
    ("--estimator", "notebook"): ("estimator.name", "notebook"),
    ("--env-kwarg", "sutton_barto_reward=true"): ("env_kwargs.sutton_barto_reward", True),
    ("--tag", "a=1", "--tag", "b=x=y"): ("tags", {"a": "1", "b": "x=y"}),
    ("--max-grad-norm", "0.5"): ("max_grad_norm", 0.5),
    ("--max-grad-norm", "none"): ("max_grad_norm", None),
    ("--no-normalize-returns",): ("normalize_returns", False),
    ("--gamma-t",): ("gamma_t", True),
    ("--seeds", "3,5,8"): ("seeds", [3, 5, 8]),
    ("--seeds", "4"): ("seeds", [0, 1, 2, 3]),
    ("--seed", "4"): ("seeds", [4]),
    ("--total-steps", "2e4"): ("total_steps", 20_000),
    ("--total-steps", "20_000"): ("total_steps", 20_000),
    ("--total-episodes", "5"): ("total_steps", None),
    ("--sweep-axis", "learning-rate=1e-4,3e-4"): ("sweep_axis", {"learning_rate": [1e-4, 3e-4]}),
    ("--sweep-axis", "gamma=1", "--sweep-axis", "entropy_coef=0"): (
        "sweep_axis",
        {"gamma": [1.0], "entropy_coef": [0.0]},
    ),
    ("--preset", "notebook"): ("policy.activation", "leaky_relu"),
    ("--preset", "notebook", "--policy.activation", "relu"): ("policy.activation", "relu"),
}


@pytest.mark.parametrize("arguments", READ, ids=" ".join)
def test_options_give_the_expected_settings(arguments: tuple[str, ...], configured: Any) -> None:
    path, value = READ[arguments]
    found = configured(*CARTPOLE, *arguments).nested()
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else found
    assert found == value


def test_options_override_the_settings_file(configured: Any, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("algorithm: reinforce\nenv: Acrobot-v1\nseed: 7\npolicy: {name: mlp, hidden: [8]}\ngamma: 0.5\n")
    config = configured("--config", str(file), "--gamma", "0.9")
    assert (config.env, config.seeds, config.gamma) == ("Acrobot-v1", (7,), 0.9)
    assert config.policy.settings.hidden == (8,)
    assert configured("--config", str(file), "--seeds", "2").seeds == (0, 1)


def test_help_of_an_algorithm_fits_a_narrow_terminal(here: Path) -> None:
    env = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "pgzoo", "run", "reinforce", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=here)
    text = done.stdout
    assert max(map(len, text.splitlines())) <= 80
    assert re.findall(r"^(\w[\w -]+):$", text, re.MULTILINE) == [
        "Run",
        "Algorithm reinforce",
        "Policy mlp",
        "Estimator reward-to-go",
        "Program",
    ]
    assert "      ∇J(θ) = E[ Σₜ γᵗ (Gₜ - b) ∇ log π(aₜ|sₜ; θ) ]\n" in text
    assert "Shapes:" not in text and "Source: Williams (1992)" in text
    words = " ".join(text.split())
    for setting in ("total_steps", "learning_rate", "baseline", "policy.hidden", "eval_episodes"):
        assert re.search(rf"--{setting.replace('_', '-')} .{{3,160}}\[default: ", words), setting


def test_help_of_run_lists_algorithms(here: Path) -> None:
    done = run("--help")
    assert done.exit_code == 0 and "pgzoo run ALGO --env ID [OPTIONS]" in done.output
    assert "reinforce" in done.output.partition("Algorithms:")[2]
    alone = run()
    assert alone.exit_code == 2 and "Algorithms:" in alone.output
