"""Compile a pure function of trees of tensors.

It is traced once for each combination of shapes that it meets, gradients and all, and what was traced is handed to
torch's compiler. Nothing but the tensors that go in is looked at again, so a call costs microseconds of checking where
`torch.compile`, which guards everything that a function has seen, costs as much as a small network's arithmetic.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from pgzoo.ops.members import map_leaves
from pgzoo.reports import Stopwatch

__all__ = ["Compiled"]

_log = logging.getLogger("pgzoo")

OPTIONS = {
    "cpp_wrapper": True,  # calls between kernels cost as much as the kernels of a small network
    "compile_threads": 1,  # no pool of processes for one graph
    "cpp.use_decompose_tanh": "1",  # by a sigmoid: a quarter of the time, and the same to rounding
}

_HOLE = object()
"""Where a tensor goes in the tree of a result."""

Leaves = Callable[..., Any]


class Compiled:
    """The same function, compiled; as it is where that can't be done, which is said once.

    Its argument is a tree (see `ops.members`), its result a NamedTuple; leaves that are no tensors are taken to be the
    same in every call.
    """

    def __init__(self, function: Callable[[Any], Any], watch: Stopwatch) -> None:
        """Time spent compiling is charged to the watch's phase "compile"."""
        self.function, self.watch = function, watch
        self._made: dict[Any, tuple[Leaves, Any]] = {}
        self._failed = False

    def __call__(self, tree: Any) -> Any:
        """What the function gives for `tree`."""
        if self._failed:
            return self.function(tree)
        leaves = _leaves(tree)
        shapes = tuple((leaf.shape, leaf.stride(), leaf.dtype) for leaf in leaves)
        made = self._made.get(shapes)
        if made is None:
            try:
                with self.watch.phase("compile"):
                    made = self._made[shapes] = self._make(tree, leaves)
            except Exception as error:  # whatever a compiler may stumble over, the function itself is sound
                self._failed = True
                _say_once(next(iter(str(error).strip().splitlines()), type(error).__name__))
                return self.function(tree)
        run, shape_of_result = made
        results = iter(run(*leaves))
        return map_leaves(lambda leaf: next(results) if leaf is _HOLE else leaf, shape_of_result)

    def _make(self, tree: Any, leaves: list[Tensor]) -> tuple[Leaves, Any]:
        """Trace and compile for leaves of these shapes; return it with the result's tree, tensors marked by `_HOLE`."""
        import torch._inductor
        from torch.fx.experimental.proxy_tensor import make_fx

        shape_of_result: Any = None

        def flat(*traced: Tensor) -> list[Tensor]:
            nonlocal shape_of_result
            pieces = iter(traced)
            result = self.function(map_leaves(lambda _: next(pieces), tree))
            shape_of_result = map_leaves(lambda leaf: _HOLE if isinstance(leaf, Tensor) else leaf, result)
            return _leaves(result)

        with warnings.catch_warnings(), torch._inductor.config.patch(OPTIONS):
            warnings.simplefilter("ignore")  # of torch about itself
            graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves)
            return torch._inductor.compile(graph, list[Any](leaves)), shape_of_result


@cache
def _say_once(reason: str) -> None:
    _log.warning("The update can't be compiled and runs as it is: %s", reason)


def _leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in the order of `map_leaves`, which builds as it goes and takes three times as long."""
    found: list[Tensor] = []

    def visit(node: Any) -> None:
        if isinstance(node, Tensor):
            found.append(node)
        elif isinstance(node, dict):
            for child in node.values():
                visit(child)
        elif isinstance(node, tuple) and hasattr(node, "_fields"):
            for child in node:
                visit(child)
        elif hasattr(node, "map"):  # a distribution
            node.map(found.append)

    visit(tree)
    return found
