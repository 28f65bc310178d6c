"""Registers the built-in policies."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl

POLICIES = (
    # name, "module:class", config, summary
    ("mlp", "mlp:MLP", "mlp:MLPConfig", "multilayer perceptron for flat observations; all non-nested action spaces"),
    ("linear", "mlp:MLP", "mlp:LinearConfig", "one linear layer for flat observations"),
    ("simba", "simba:Simba", "simba:SimbaConfig", "residual blocks with layer normalization for flat observations"),
    ("tabular", "tabular:Tabular", "tabular:TabularConfig", "a table with a row for each Discrete observation"),
    ("gru", "recurrent:gru", "recurrent:RecurrentConfig", "recurrent: gated recurrent units"),
    ("lstm", "recurrent:lstm", "recurrent:RecurrentConfig", "recurrent: long short-term memory"),
    ("gtrxl", "gtrxl:GTrXL", "gtrxl:GTrXLConfig", "recurrent: gated transformer over the last steps of the episode"),
    (
        "cnn",
        "cnn:cnn",
        "cnn:CNNConfig",
        "convolutions of the Nature DQN for images, also among other entries of a Dict",
    ),
    (
        "impala-cnn",
        "cnn:impala_cnn",
        "cnn:ImpalaCNNConfig",
        "residual convolutions of IMPALA, for the same observations",
    ),
    ("uniform", "uniform:Uniform", None, "nothing to learn: all allowed actions are equally likely"),
)


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register the policies as strings, so that listing them doesn't import torch."""
    for name, target, config, summary in POLICIES:
        config = config and f"pgzoo.policies.{config}"
        registry.policy(name, f"pgzoo.policies.{target}", config=config, summary=summary)
