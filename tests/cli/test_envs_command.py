"""`pgzoo envs`: the list of environments, and the description of one."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import pytest
from click.testing import CliRunner, Result
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec

from pgzoo.cli.main import program


def pgzoo(*arguments: str) -> Result:
    return CliRunner().invoke(program, arguments, prog_name="pgzoo", catch_exceptions=False)


def test_the_list_hides_old_versions_unless_all_is_given() -> None:
    names = {entry["name"] for entry in json.loads(pgzoo("envs", "--json").stdout)}
    everything = {entry["name"]: entry for entry in json.loads(pgzoo("envs", "--all", "--json").stdout)}
    assert {"CartPole-v1", "Ant-v5"} <= names < set(everything)
    assert "Ant-v3" not in names
    assert everything["Ant-v3"]["summary"] == "use Ant-v5"


def test_one_environment_is_described() -> None:
    result = pgzoo("envs", "CartPole-v1")
    assert result.exit_code == 0
    facts = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["runs here"] == "yes"
    assert facts["actions"] == "Discrete(2)"
    assert facts["max episode steps"] == "500"
    assert facts["reward threshold"] == "475"
    assert "native" in facts["backends"]


def test_backends_that_do_not_support_the_environment_are_omitted() -> None:
    info = json.loads(pgzoo("envs", "FrozenLake-v1", "--json").stdout)
    assert info["runs"]
    assert "native" not in info["backends"]
    assert "sync" in info["backends"]


def test_envs_plays_a_few_steps_with_the_given_keywords() -> None:
    fine = pgzoo("envs", "probe/Faulty-v0", "--env-kwarg", "patience=9")
    assert fine.exit_code == 0 and "runs here          yes" in fine.stdout
    broken = pgzoo("envs", "probe/Faulty-v0", "--env-kwarg", "patience=1", "--json")
    assert broken.exit_code == 2 and not json.loads(broken.stdout)["runs"]
    problem = json.loads(broken.stdout)["problem"]
    assert problem.startswith('environment "probe/Faulty-v0" raised OSError: the simulator is gone in step (')
    run = pgzoo("run", "reinforce", "--env", "probe/Faulty-v0", "--env-kwarg", "patience=1")
    assert run.exit_code == 2 and run.stderr == f"Error: {problem}\n"


def test_envs_says_whether_actions_are_masked() -> None:
    facts = dict(line.split("  ", 1) for line in pgzoo("envs", "probe/Trap-v0").stdout.splitlines())
    assert facts["action masks"].strip() == "yes"
    assert "action masks" not in pgzoo("envs", "CartPole-v1").stdout


def test_envs_warns_of_an_environment_that_ignores_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unseeded(CartPoleEnv):
        """Ignores the seed of a reset."""

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(options=options)

    monkeypatch.setitem(gym.registry, "Unseeded-v0", EnvSpec("Unseeded-v0", Unseeded))
    result = pgzoo("envs", "Unseeded-v0", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["seeded"] is False
    assert result.stderr.startswith(
        "Warning: Unseeded-v0 plays another episode each time it is reset with the same seed"
    )
    fine = pgzoo("envs", "CartPole-v1", "--json")
    assert json.loads(fine.stdout)["seeded"] is True and "Warning" not in fine.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_an_environment_that_cannot_run_here_is_an_error_with_advice(as_json: bool) -> None:
    result = pgzoo("envs", "LunarLander-v2", *(["--json"] if as_json else []))
    assert result.exit_code == 2
    message = 'Use "LunarLander-v3", which replaced it.'
    assert message in (json.loads(result.stdout)["problem"] if as_json else result.stderr)
