"""`pgzoo run FILE.py:CLASS`: components from a file, without a plugin."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from click.testing import CliRunner, Result

import pgzoo
from pgzoo.cli import main
from pgzoo.errors import UnknownName, UsageError
from pgzoo.registry import discover
from pgzoo.registry.changes import changes
from pgzoo.registry.objects import names_of_references
from pgzoo.runs.reproduce import differences, reproduce
from pgzoo.runs.resume import resume
from pgzoo.tracking import Home, find
from pgzoo.tracking.ledger import start_of
from pgzoo.tracking.missing_code import check_files

IDEA = '''"""An idea."""
import pgzoo
from pgzoo.ops.losses import weighted_mean
from pgzoo.ops.returns import reward_to_go
from torch import nn


class Idea:
    """My algorithm."""

    collect, estimator = pgzoo.Episodes(per_env=1), "reward-to-go"

    def loss(self, policy, params, batch, hyper):
        dist = policy.apply(params, batch.inputs).dist
        return weighted_mean(-dist.log_prob(batch.actions) * batch.advantages, batch.weights)


class NoEstimator:
    def loss(self, policy, params, batch, hyper):
        ...


class OtherArguments:
    estimator = "reward-to-go"

    def update(self, state):
        ...


def net(inputs, outputs):
    return nn.Linear(inputs, outputs)


def returns(*, rewards, terminated, truncated, valid, gamma):
    return reward_to_go(rewards=rewards, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)


class FunctionAsEstimator(Idea):
    estimator = len


class ListOfDefaults(Idea):
    defaults = ["num_envs"]
'''
SHORT = "--env CartPole-v1 --total-steps 100 --eval-episodes 2 --num-envs 2 --tracking-uri none --no-progress".split()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main.program, ["run", *arguments], prog_name="pgzoo")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with `idea.py`."""
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PGZOO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "idea.py").write_text(IDEA)
    yield tmp_path
    sys.modules.pop("idea", None)
    sys.modules.pop("my_envs", None)
    gym.registry.pop("MyPole-v0", None)


def test_a_class_in_a_file_claims_to_train_policies_with_memory_as_a_registered_one_does() -> None:
    assert discover(imports=["./idea.py"]).get("algorithm", "idea:Idea").facts == {"recurrent": True}


def test_components_from_a_file_are_trained_and_the_run_keeps_a_copy_of_it(here: Path) -> None:
    components = ("./idea.py:Idea", "--policy", "./idea.py:net", "--estimator=./idea.py:returns")
    done = run(*components, *SHORT, "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["algorithm"] == "idea:Idea"
    [found] = find(answer["group"], Home.find())
    assert found.name == "Idea s0" and found.artifact("code/idea.py").read_text() == IDEA
    assert found.path is not None
    start = start_of(found.path)
    assert start is not None and start["tags"]["pgzoo.imports"] == "./idea.py"

    rule = "but pgzoo imports the code of a run only if you name it"
    asked = rf"^Idea s0 needs ./idea.py, {rule}. Next: pgzoo resume x --import ./idea.py$"
    with pytest.raises(UnknownName, match=asked):
        resume([found], discover(), total_steps=200, command="pgzoo resume x")
    with pytest.raises(UnknownName, match=r"Next: imports=\['./idea\.py'\]$"):
        pgzoo.evaluate(found.run_key, episodes=2)
    with pytest.raises(UnknownName, match=r"Next: imports=\['./idea\.py'\]$"):
        differences(found, discover())
    elsewhere = discover(imports=[str(here / "idea.py")])  # the same file by another path
    assert changes(start["tags"], elsewhere) == []
    assert reproduce(found, elsewhere).first is None
    assert resume([found], elsewhere, total_steps=200).runs[0].env_steps >= 200
    assert pgzoo.evaluate(found.run_key, episodes=2, imports=["idea.py"]).length_mean[0] > 0
    (here / "idea.py").write_text(IDEA + "# changed\n")
    (sentence,) = changes(start["tags"], discover(imports=["idea.py"]))
    assert sentence == "./idea.py has changed since the run was trained: the numbers may differ."
    assert found.artifact("code/idea.py").read_text() == IDEA

    (here / "idea.py").unlink()
    with pytest.raises(UnknownName) as caught:
        resume([found], discover(), total_steps=300, command="pgzoo resume x")
    *_, copy = str(caught.value).split("If you trust the copy: pgzoo resume x --import ")
    assert "no file ./idea.py here" in str(caught.value) and Path(copy).read_text() == IDEA
    with pytest.raises(UsageError, match=f"If you trust the copy: pgzoo resume x --import {re.escape(copy)}$"):
        check_files(["./idea.py"], [found], "pgzoo resume x --import ./idea.py")
    check_files(["./other.py", "module", copy], [found], "")  # none is a missing file of which the run has a copy
    assert resume([found], discover(imports=[copy]), total_steps=300).runs[0].env_steps >= 300
    assert Path(copy).read_text() == IDEA


def test_commands_on_a_run_name_the_file_that_registers_its_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "my_envs.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n\n"
        "gym.register('MyPole-v0', CartPoleEnv, max_episode_steps=20)\n"
    )
    done = run("reinforce", "--import", "my_envs.py", "--env", "MyPole-v0", *SHORT[2:], "--json")
    assert done.exit_code == 0, done.stderr
    group = json.loads(done.stdout.splitlines()[-1])["group"]
    del gym.registry["MyPole-v0"], sys.modules["my_envs"]
    rule = "but pgzoo imports the code of a run only if you name it"
    for typed in (f"resume {group} --total-steps 200", f"repro {group}", f"evaluate {group}", f"video {group}"):
        monkeypatch.setattr(sys, "argv", ["pgzoo", *typed.split()])
        failed = CliRunner().invoke(main.program, typed.split(), prog_name="pgzoo")
        again = f"pgzoo {typed} --import my_envs.py"
        assert (failed.exit_code, failed.stderr.splitlines()[-1:]) == (
            2,
            [f"Error: reinforce s0 needs my_envs.py, {rule}. Next: {again}"],
        ), failed.output
        assert "was started with" not in failed.output
    with pytest.raises(UnknownName, match=r"Next: imports=\['my_envs\.py'\]$"):
        pgzoo.evaluate(group, episodes=2)
    for other in (["--env", "MyPool-v0"], ["--backend", "sycn"]):  # mistakes in what was typed now
        failed = CliRunner().invoke(main.program, ["evaluate", group, *other], prog_name="pgzoo")
        assert failed.exit_code == 2 and f'"{other[1]}"' in failed.stderr and "my_envs.py" not in failed.stderr
    assert pgzoo.evaluate(group, episodes=2, imports=["my_envs.py"]).length_mean[0] <= 20


def test_a_run_that_fails_in_its_first_update_ends_with_the_error_and_a_hint(here: Path) -> None:
    (here / "idea.py").write_text(
        IDEA.replace("        dist = ", "        raise ValueError('no such key')\n        dist = ", 1)
    )
    done = run("./idea.py:Idea", *SHORT, "--seeds", "2")
    assert (done.exit_code, done.stdout) == (1, "")
    failure, hint = done.stderr.splitlines()[-2:]
    assert re.fullmatch(r'Error: algorithm "idea:Idea" raised ValueError: no such key \(idea.py, line \d+\)', failure)
    assert hint == (
        "No step was trained. Correct the error and start the run again; PGZOO_DEBUG=1 shows the traceback."
    )


def test_python_accepts_the_same_names_of_components_in_files() -> None:
    config = pgzoo.plan("idea.py:Idea", env="CartPole-v1", policy={"name": "./idea.py:net"}, total_steps=100).config
    assert (config.algorithm, config.policy.name, config.name) == ("idea:Idea", "idea:net", "Idea")


# name: arguments, text that the message must contain
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("./ida.py:Idea",), "./ida.py can't be run. There is no file"),
    "no class": (
        ("./idea.py",),
        'No algorithm "./idea.py". To use one that a file defines, add its name: ./idea.py:NA',
    ),
    "another class": (("./idea.py:Idee",), './idea.py defines no algorithm "Idee". Did you mean "Idea"?'),
    "a class of another module": (("./idea.py:pgzoo.Plan",), './idea.py defines no algorithm "pgzoo.Plan".'),
    "no estimator": (
        ("./idea.py:NoEstimator",),
        "./idea.py, line 18: algorithm: class NoEstimator has no attribute es",
    ),
    "arguments": (
        ("./idea.py:OtherArguments",),
        "./idea.py, line 23: algorithm: update of class OtherArguments must take the arguments (self, ctx, state, ",
    ),
    "a function": (("./idea.py:net",), "./idea.py, line 30: algorithm: expected a name or a class with a method loss,"),
    "no policy": (("reinforce", "--policy", "./idea.py:returns"), "./idea.py, line 34: policy: "),
    "no function": (
        ("reinforce", "--estimator", "idea.py:Idea"),
        "idea.py, line 8: estimator: expected a function, not",
    ),
    "a function as the estimator": (
        ("./idea.py:FunctionAsEstimator",),
        "of idea.py has estimator = <built-in function len>; expected the name of its default estimator, such as",
    ),
    "a list of defaults": (
        ("./idea.py:ListOfDefaults",),
        "of idea.py has defaults = ['num_envs']; expected a mapping of settings, such as",
    ),
    "syntax": (("./syntax.py:Idea",), "./syntax.py can't be run. SyntaxError: invalid syntax (syntax.py, line 2)"),
    "exception": (
        ("./raises.py:Idea",),
        "./raises.py can't be run. ZeroDivisionError: division by zero (raises.py, li",
    ),
    "two files": (("./idea.py:Idea", "--policy", "x/idea.py:net"), "./idea.py and x/idea.py would be the same module."),
    "settings file": (
        ("--config", "idea.yaml"),
        '"./idea.py:Idea": a class in a file is named on the command line or in pgzoo.run, because settings files load',
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message_with_the_file_and_line(mistake: str, here: Path) -> None:
    (here / "syntax.py").write_text("import pgzoo\nclass Idea(:\n")
    (here / "raises.py").write_text("import pgzoo\n1 / 0\n")
    (here / "idea.yaml").write_text("algorithm: ./idea.py:Idea\nenv: CartPole-v1\n")
    arguments, message = MISTAKES[mistake]
    done = run(*arguments, *SHORT)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and message in line and not done.stdout
    assert not (here / ".pgzoo").exists()


def test_names_that_do_not_refer_to_files_are_unchanged() -> None:
    names = ["ppo", "module:Class", None, {"name": "mlp"}, "folder.py"]
    assert names_of_references(names, ["x"]) == (names, ["x"])
    with pytest.raises(UsageError, match="would be the same module"):
        names_of_references(["a/idea.py:A"], ["b/idea.py"])
    assert names_of_references(["./idea.py:A"], ["idea.py"])[1] == ["idea.py", "./idea.py"]
