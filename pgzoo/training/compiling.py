"""Compile a pure function of trees of tensors, ahead of time.

For each new combination of input shapes, the function runs once while all of its operations, gradients included, are
recorded. A digest of the recording names the compiled library in the cache: if it exists, it is loaded within
milliseconds, otherwise the function is traced and compiled. A call checks only the shapes of its inputs, which takes
microseconds; `torch.compile` checks guards on everything a function has used, which costs as much as a small network.
"""

from __future__ import annotations

import contextvars
import ctypes
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pgzoo.ops.members import map_leaves
from pgzoo.training.activity import Cancelled
from pgzoo.training.inductor import OPTIONS, build_library
from pgzoo.training.metrics import Stopwatch
from pgzoo.training.step_loop import StepLoop, step_loop_of

__all__ = ["Compiled", "FlatFunction", "leaves_of", "operations_of", "own_copy"]

_log = logging.getLogger("pgzoo")

_HOLE = object()
"""Placeholder for a tensor in the tree of a result."""

POLL = 0.1
"""Seconds between two looks at whether compiling was cancelled."""

Leaves = Callable[[list[Tensor]], list[Tensor]]


class FlatFunction(NamedTuple):
    """A compiled function of a list of tensors, the leaves of its argument.

    `run(leaves)` returns the tensors of the result; `form` is the tree of the result with `_HOLE` for its tensors.
    `library` is the file with its code, None if it runs eagerly.
    """

    run: Leaves
    form: Any
    library: Path | None = None

    def result(self, tensors: Iterable[Any]) -> Any:
        """Return the tree of a result with these tensors."""
        return _filled(self.form, tensors)


class Compiled:
    """A compiled function. If compiling fails, it runs the function eagerly, with one warning per process.

    Its argument is a tree (see `ops.members`), its result a NamedTuple. Leaves that are not tensors must be the same in
    every call.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        watch: Stopwatch,
        folder: Path | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        one_piece: bool = False,
    ) -> None:
        """Store compiled libraries in `folder`.

        None: in TORCHINDUCTOR_CACHE_DIR, or in a temporary folder if it isn't set. Time spent compiling is charged to
        the watch's phase "compile". Compiling is aborted when `cancelled()` returns True.

        If all tensors of the function are small, its intermediate results are allocated as one piece of memory on the
        CPU. With `one_piece`, the results are part of it, which is faster, but keeps all of it in memory as long as one
        of them; see `own_copy`.
        """
        self.function, self.watch, self.folder, self.cancelled = function, watch, folder, cancelled
        self.pool = "combined" if one_piece else "intermediates"
        self._compiled: dict[Any, FlatFunction] = {}
        self._loops: dict[Path, StepLoop | None] = {}
        self.failed = False
        """Whether compiling has failed, so that the function runs eagerly from now on."""

    def __call__(self, tree: Any) -> Any:
        """Return the function's result for `tree`. Raises Cancelled if compiling it was given up."""
        if self.failed:
            return self.function(tree)
        leaves = leaves_of(tree)
        flat = self.flat(lambda: tree, leaves)
        return flat.result(flat.run(leaves))

    def flat(self, tree: Callable[[], Any], leaves: list[Tensor]) -> FlatFunction:
        """Return the function for a tree of the structure of `tree()`, as a function of its leaves of these shapes.

        It runs eagerly if it can't be compiled. Raises Cancelled if compiling was given up.
        """
        shapes = tuple((leaf.shape, leaf.stride(), leaf.dtype) for leaf in leaves)
        compiled = self._compiled.get(shapes)
        if compiled is None:
            function = _Flattened(self.function, tree())
            try:
                if not self.failed:
                    with self.watch.phase("compile"):
                        compiled = self._compile(function, leaves)
            except Cancelled:
                raise
            except Exception as error:  # the function still works eagerly, regardless of the compiler's error
                self.failed = True
                _warn_once(next(iter(str(error).strip().splitlines()), type(error).__name__))
            if compiled is None:
                function(*leaves)  # determines the form of the result
                compiled = FlatFunction(lambda leaves: function(*leaves), function.result_form)
            self._compiled[shapes] = compiled
        return compiled

    def loop(self, flat: FlatFunction) -> StepLoop | None:
        """Return the loop in C over calls of a function that is a gradient step; None if there is none."""
        if flat.library is None:
            return None
        if flat.library not in self._loops:
            with self.watch.phase("compile"):
                self._loops[flat.library] = step_loop_of(flat.library)
        return self._loops[flat.library]

    def _compile(self, flat: _Flattened, leaves: list[Tensor]) -> FlatFunction:
        """Return the function for leaves of these shapes, from its library."""
        leaves = [leaf.detach() for leaf in leaves]  # a tensor that occurs twice counts as two tensors
        library = _cache(self.folder) / f"{_digest(flat, leaves, self.pool)}.so"
        if not library.exists():
            _in_thread(lambda: build_library(flat, leaves, library, self.pool), self.cancelled)
        aoti, device = torch._C._aoti, leaves[0].device
        if device.type == "cpu":
            return FlatFunction(aoti.AOTIModelContainerRunnerCpu(str(library), 1).run, flat.result_form, library)
        return FlatFunction(aoti.AOTIModelContainerRunnerCuda(str(library), 1, str(device)).run, flat.result_form)


class _Flattened:
    """A function of a tree as a function of the tree's leaves. It knows the form of the last result."""

    def __init__(self, function: Callable[[Any], Any], tree: Any) -> None:
        self.function, self.form = function, _form_of(tree)
        self.result_form: Any = None

    def __call__(self, *leaves: Tensor) -> list[Tensor]:
        """Return the tensors of the function's result."""
        result = self.function(_filled(self.form, leaves))
        self.result_form = _form_of(result)
        return leaves_of(result)


def _form_of(tree: Any) -> Any:
    """Return a tree with `_HOLE` for its tensors."""
    return map_leaves(lambda leaf: _HOLE if isinstance(leaf, Tensor) else leaf, tree)


def _filled(form: Any, leaves: Iterable[Any]) -> Any:
    """Return a form with `leaves` for its holes."""
    each = iter(leaves)
    return map_leaves(lambda leaf: next(each) if leaf is _HOLE else leaf, form)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the names of the operations that torch executes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in `OperationTrace`

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(operation.name())
        return operation(*args, **(kwargs or {}))


def operations_of(function: Callable[[], Any]) -> list[str]:
    """Return the names of the operations that a function executes, such as "aten::mul.Tensor"."""
    found = _Operations()
    with found:
        function()
    return found.names


class OperationTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation that torch executes. Tensors are numbered in the order of their appearance."""

    def __init__(self, leaves: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.digest = hashlib.sha256()
        self._known: dict[int, tuple[int, Tensor]] = {}  # keeps them alive, so that no id is reused
        self._number_outputs(leaves)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import dynamo, which takes a second

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record an operation and execute it."""
        kwargs = kwargs or {}
        self.write(str(operation), args, kwargs)
        result = operation(*args, **kwargs)
        self._number_outputs(result)
        return result

    def write(self, *things: Any) -> None:
        """Add to the digest. A tensor that no operation made is a constant, and is added by its contents."""
        self.digest.update(repr(tree_map_only(Tensor, self._name, things)).encode())

    def _name(self, tensor: Tensor) -> str:
        if id(tensor) not in self._known:
            self._number_outputs(tensor)
            self.digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
        return f"t{self._known[id(tensor)][0]}"

    def _number_outputs(self, made: Any) -> None:
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and id(tensor) not in self._known:
                self._known[id(tensor)] = len(self._known), tensor
                self.digest.update(repr((tensor.shape, tensor.stride(), tensor.dtype, tensor.device)).encode())


def _digest(flat: Callable[..., list[Tensor]], leaves: list[Tensor], pool: str) -> str:
    """Return a digest of the operations of `flat` on such leaves, torch's version, the machine and the options."""
    trace = OperationTrace(leaves)
    machine: tuple[Any, ...] = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    if leaves[0].device.type == "cuda":
        machine += (torch.version.cuda, torch.cuda.get_device_capability())
    trace.write(torch.__version__, machine, OPTIONS, pool)
    with trace:
        results = flat(*leaves)
    trace.write(results)
    return trace.digest.hexdigest()[:32]


def own_copy(leaf: Tensor) -> Tensor:
    """Return a tensor that keeps no larger piece of memory: itself, or a copy."""
    return leaf.clone() if leaf.untyped_storage().nbytes() > leaf.nbytes else leaf


def _in_thread(work: Callable[[], None], cancelled: Callable[[], bool]) -> None:
    """Do some work in a thread, and wait for it. Python has to be free to handle signals, as compiling takes minutes.

    Raises:
        Cancelled: `cancelled()` turned True; the thread is given up.
        Exception: what the work raised.
    """
    errors: list[BaseException] = []
    threads, context = torch.get_num_threads(), contextvars.copy_context()

    def body() -> None:
        torch.set_num_threads(threads)  # a new thread has torch's default
        try:
            context.run(work)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="pgzoo-compile", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL)
            if thread.is_alive() and cancelled():
                raise Cancelled
    except BaseException:
        # raised at the thread's next line of Python; what it waits for, such as a C++ compiler, isn't waited for here
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        thread.join(1.0)
        raise
    if errors:
        raise errors[0]


def _cache(folder: Path | None) -> Path:
    """Create and return `folder`; if it is None, TORCHINDUCTOR_CACHE_DIR or a temporary folder of this process."""
    folder = folder or Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or _temporary_folder())
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@cache
def _temporary_folder() -> str:
    return tempfile.mkdtemp()


@cache
def _warn_once(reason: str) -> None:
    _log.warning("The update can't be compiled and runs eagerly: %s", reason)


def leaves_of(tree: Any) -> list[Tensor]:
    """Return the tensors of a tree in the order of `map_leaves`, which is three times as slow."""
    found: list[Tensor] = []
    _collect(tree, found)
    return found


def _collect(node: Any, found: list[Tensor]) -> None:
    """Append the tensors of a tree to a list.

    Not a function within `leaves_of`: one that calls itself would be a reference cycle, and keep the tensors in memory
    until Python looks for cycles.
    """
    if isinstance(node, Tensor):
        found.append(node)
    elif isinstance(node, dict):
        for child in node.values():
            _collect(child, found)
    elif isinstance(node, tuple) and hasattr(node, "_fields"):
        for child in node:
            _collect(child, found)
    elif hasattr(node, "map"):  # a distribution
        node.map(found.append)
