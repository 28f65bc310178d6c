"""Trains through the Python API, without tracking; the last line of output is JSON.

python benchmarks/untracked.py '{"algorithm": "ppo", "env": "CartPole-v1", "seeds": 4, "total_steps": 8192}'
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pgzoo.config import Layer
from pgzoo.registry import discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import compose
from pgzoo.training.events import Evaluated, RunEnded
from pgzoo.training.loop import train


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    catalog = discover()
    played, line = [], {}
    for event in train(make_plan(compose(Layer(settings, ".".join), catalog, preset="none"), catalog)):
        if isinstance(event, Evaluated):
            played += [float(returns.mean()) for returns in event.returns if len(returns)]
        elif isinstance(event, RunEnded):
            timing = dict(event.timing)
            line = {"env_steps": int(event.env_steps.sum()), "wall_seconds": timing.pop("loop"), "timing": timing}
    print(json.dumps(line | {"return_mean": sum(played) / len(played)}))


if __name__ == "__main__":
    main()
