"""The loop over the compiled steps of an update, in C: with small networks, Python takes a tenth of a step's time.

It calls the library that torch has compiled through torch's C interface, with the same tensors as Python would, so
results are the same, bit for bit. `step_loop.c` needs a C++ compiler, as the library does; without one, Python loops.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import subprocess
import weakref
from collections.abc import Iterable, Sequence
from ctypes import POINTER, byref, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgzoo.ops.c_compiler import OPTIONS, compile_c

__all__ = ["Kept", "Places", "StepLoop", "StepsTaken", "step_loop_of"]

_log = logging.getLogger("pgzoo")

SOURCE = Path(__file__).with_suffix(".c")

FUNCTIONS = {
    "view": "aoti_torch__reinterpret_tensor",
    "copy_reference": "aoti_torch_new_tensor_handle",
    "data": "aoti_torch_get_data_ptr",
    "strides": "aoti_torch_get_strides",
    "drop": "aoti_torch_delete_tensor_object",
}
"""The functions of torch that `step_loop.c` calls, besides the library's own `run`."""


_pointer = ctypes.PYFUNCTYPE(c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, ctypes.c_char_p, c_void_p)(("PyCapsule_New", ctypes.pythonapi))


class _Functions(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("run", *FUNCTIONS)]


class _Stack(ctypes.Structure):
    _fields_ = [
        *(("input", c_int64), ("ndim", c_int64)),
        *(("sizes", POINTER(c_int64)), ("strides", POINTER(c_int64)), ("distance", c_int64)),
    ]


class _Carried(ctypes.Structure):
    _fields_ = [("input", c_int64), ("output", c_int64)]


class _Places(ctypes.Structure):
    _fields_ = [(name, c_int64) for name in ("flags", "metrics", "counted", "num_metrics", "num_members")]


class _Kept(ctypes.Structure):
    _fields_ = [("metrics", c_void_p), ("counted", c_void_p)]


class _Progress(ctypes.Structure):
    _fields_ = [("steps", c_int64), ("going", c_int64)]


class Places(NamedTuple):
    """Where a compiled step has its inputs and outputs.

    `batch` is the position of the first leaf of the batch among the inputs; `carried` are pairs of an input and the
    output that is this input of the next step; the others are positions of outputs (see `GradientStepResult`).
    """

    batch: int
    carried: tuple[tuple[int, int], ...]
    flags: int
    metrics: int
    counted: int


class Kept(NamedTuple):
    """What is kept of K steps: metrics `[K, M, S]` (float64), and the members that they count for, `[K, S]` (bool)."""

    metrics: Tensor
    counted: Tensor

    @classmethod
    def zeros(cls, steps: int, metrics: int, members: int) -> Kept:
        """Return room for some steps; no member counts."""
        values = torch.zeros(steps, metrics, members, dtype=torch.float64)
        return cls(values, torch.zeros(steps, members, dtype=torch.bool))


class StepsTaken(NamedTuple):
    """The result of some steps: the next step, whether any member takes part in it, and the `carried` inputs of it."""

    next: int
    going: bool
    carried: list[Tensor]


class StepLoop:
    """Takes steps with one compiled library."""

    def __init__(self, loop: ctypes.CDLL, library: Path) -> None:
        """`loop` is the compiled `step_loop.c`.

        Raises:
            AttributeError: this torch, or the library, doesn't have a function.
            OSError: the library can't be loaded.
            RuntimeError: a function failed.
        """
        self._handles_of = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors
        self._tensors_of = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs
        model, self._library, outputs = ctypes.CDLL(str(library)), c_void_p(), c_size_t()
        self._take = loop.pgzoo_take_steps
        shared = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / _file_name("torch_cpu")))
        run, delete = model.AOTInductorModelContainerRun, model.AOTInductorModelContainerDelete
        functions = (run, *(getattr(shared, name) for name in FUNCTIONS.values()))
        self._functions = _Functions(*(ctypes.cast(function, c_void_p) for function in functions))
        _check(model.AOTInductorModelContainerCreateWithDevice(byref(self._library), c_size_t(1), b"cpu", None))
        weakref.finalize(self, delete, self._library).atexit = False
        _check(model.AOTInductorModelContainerGetNumOutputs(self._library, byref(outputs)))
        self._outputs = outputs.value
        self._stacks: dict[Any, tuple[Any, list[Any]]] = {}

    def __call__(
        self, inputs: Sequence[Tensor], stacks: Sequence[Tensor], places: Places, first: int, kept: Kept
    ) -> StepsTaken:
        """Take the steps from `first` on, until one in which a member fails, or after which no member goes on.

        Args:
            inputs: the inputs of the library, with anything in the places of the batch.
            stacks: the leaves of the batches, `[K, ...]` each.
            places: where the inputs and outputs are.
            first: the first step, less than K.
            kept: gets the metrics of these steps, and which members they count for.
        """
        count, size = len(stacks[0]), len(inputs)
        end = places.batch + len(stacks)
        handles = (c_void_p * size)(*self._handles([*inputs[: places.batch], *stacks, *inputs[end:]]))
        into, progress = _Kept(kept.metrics.data_ptr(), kept.counted.data_ptr()), _Progress(first, 1)
        where = _Places(places.flags, places.metrics, places.counted, *kept.metrics.shape[1:])
        carried = (_Carried * len(places.carried))(*(_Carried(*pair) for pair in places.carried))
        code = self._take(
            *(byref(self._functions), self._library, handles, (c_void_p * size)(), c_size_t(size)),
            *((c_void_p * self._outputs)(), c_size_t(self._outputs)),
            *(self._layout(places.batch, stacks), c_int64(len(stacks)), carried, c_int64(len(carried))),
            *(byref(where), byref(into), c_int64(count), byref(progress)),
        )
        tensors = self._tensors(handles)
        _check(code)
        return StepsTaken(progress.steps, bool(progress.going), [tensors[place] for place, _ in places.carried])

    def _layout(self, first: int, stacks: Sequence[Tensor]) -> Any:
        """Return where each batch of the stacks is in memory."""
        key = first, *((stack.shape, stack.stride()) for stack in stacks)
        if key not in self._stacks:
            made, arrays = (_Stack * len(stacks))(), []
            for k, stack in enumerate(stacks):
                ndim = stack.ndim - 1
                sizes, strides = ((c_int64 * ndim)(*each) for each in (stack.shape[1:], stack.stride()[1:]))
                made[k] = _Stack(first + k, ndim, sizes, strides, stack.stride(0))
                arrays += [sizes, strides]
            self._stacks[key] = made, arrays  # which `made` points to
        return self._stacks[key][0]

    def _handles(self, tensors: list[Tensor]) -> list[int]:
        """Return new references to tensors, as torch's C interface takes them."""
        return [_pointer(capsule, None) for capsule in self._handles_of(tensors)]

    def _tensors(self, handles: Iterable[int | None]) -> list[Tensor]:
        """Return the tensors of references, which are used up."""
        made: list[Tensor] = self._tensors_of([_capsule(handle, None, None) for handle in handles])
        return made


def step_loop_of(library: Path) -> StepLoop | None:
    """Return the loop for a compiled library; None if there is no compiler, or this torch has another interface."""
    try:
        return StepLoop(ctypes.CDLL(str(_built(library.parent))), library)
    except (OSError, AttributeError, RuntimeError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        _log.debug("The loop over compiled steps runs in Python: %s %s", error, said.decode(errors="replace"))
        return None


def _built(folder: Path) -> Path:
    """Return the compiled `step_loop.c`, kept in the folder of compiled libraries. Raises OSError, SubprocessError."""
    digest = hashlib.sha256(repr((SOURCE.read_text(), OPTIONS, platform.machine())).encode()).hexdigest()[:20]
    library = folder / "step_loop" / f"{digest}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        compile_c(SOURCE, library)
    return library


def _file_name(name: str) -> str:
    return f"lib{name}.dylib" if platform.system() == "Darwin" else f"lib{name}.so"


def _check(code: int) -> None:
    if code:
        raise RuntimeError("a function of torch's C interface failed")
