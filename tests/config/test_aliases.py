"""Setting names of other libraries in Python and YAML: the error suggests pgzoo's name."""

from __future__ import annotations

from pathlib import Path

import pytest

import pgzoo
from pgzoo.config.aliases import setting_hint
from pgzoo.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", 'Did you mean "learning_rate"?'),
        ("n_envs", 'Did you mean "num_envs"?'),
        ("batch_size", 'Did you mean "minibatches"? (the number of minibatches, not their size)'),
        ("gae_lambda", 'Did you mean "lam" of the estimator: estimator={"name": ..., "lam": ...}?'),
        ("random_seed", 'Did you mean "seed"?'),
        ("gama", 'Did you mean "gamma"?'),
    ],
)
def test_the_error_for_an_unknown_setting_in_python_suggests_the_right_one(given: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pgzoo.plan("ppo", env="CartPole-v1", **{given: 1})
    assert str(caught.value) == f"{given}: no setting of that name. {meant} See: pgzoo run ppo --help"


def test_the_error_for_an_unknown_setting_in_yaml_also_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("algorithm: ppo\nenv: CartPole-v1\nent_coef: 0.01\n")
    with pytest.raises(ConfigError, match=r'run\.yaml, line 3: ent_coef: .* Did you mean "entropy_coef"\?'):
        pgzoo.plan(config=str(file))


def test_a_setting_that_the_algorithm_lacks_is_not_suggested() -> None:
    assert setting_hint("clip_coef", {"learning_rate"}) == "" and setting_hint("frobnicate", {"gamma"}) == ""
