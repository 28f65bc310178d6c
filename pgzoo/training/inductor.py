"""Build a library from a function of tensors with AOTInductor, torch's compiler; `compiling` runs it.

The compiler is made to skip what costs seconds and isn't needed here.
"""

from __future__ import annotations

import contextvars
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from pgzoo.quiet import without_warnings

__all__ = ["OPTIONS", "build_library"]

OPTIONS: dict[str, Any] = {
    "aot_inductor.compile_wrapper_opt_level": "Og",  # for the wrapper only: a second less of compiling than with O1
    "compile_threads": 1,  # a process pool isn't worth it for one graph
    "cpp.use_decompose_tanh": "1",  # tanh by a sigmoid: four times as fast, equal up to rounding
}

BUILD: dict[str, Any] = {
    "aot_inductor.precompile_headers": False,  # precompiling takes 12 seconds and saves 2 per function
    "aot_inductor.enable_line_tables": False,  # debugging information
    "cpp.vec_isa_ok": True,  # torch's headers need a compiler that knows these instructions; to test it takes 6 seconds
}
"""Options that change how a library is built, but not what it computes. Those that torch doesn't know are left out."""

SMALL = 2**18
"""The most bytes that the largest tensor of a function may have, if its memory is allocated as one piece.

To allocate many small tensors takes a tenth of a function's time. For larger ones this is little, and a large piece
is slower: from `process.LARGE_BYTES` on, the C library gets it from the system and returns it in every call.
"""

_COMPILING = threading.Lock()


def build_library(flat: Callable[..., list[Tensor]], leaves: list[Tensor], library: Path, pool: str) -> None:
    """Compile `flat` into `library` unless another thread has; `pool` is what shares one piece of memory.

    Threads wait for each other, because torch's compiler is changed for a while.
    """
    with _COMPILING:
        if not library.exists():
            _build(flat, leaves, library, pool)


def _build(flat: Callable[..., list[Tensor]], leaves: list[Tensor], library: Path, pool: str) -> None:
    """Trace `flat` and compile it into `library`."""
    # importing torch's compiler sets environment variables, and sympy adds warning filters
    with _environment(library.parent), without_warnings():
        import torch._inductor as inductor
        from torch._inductor import cpp_builder, cpu_vec_isa
        from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
        from torch.fx.experimental.proxy_tensor import make_fx

    with tempfile.TemporaryDirectory(dir=library.parent) as workshop:
        made = Path(workshop, library.name)
        build = {name: value for name, value in BUILD.items() if _knows(inductor.config, name)}
        options = {**OPTIONS, **build, "aot_inductor.output_path": str(made)}
        with (
            _environment(library.parent),
            without_warnings(),  # torch's deprecation warnings about itself
            inductor.config.patch(options),
            _replaced(cpu_vec_isa.VecISA, "check_build", _no_test_program),
            _replaced(cpp_builder.CppBuilder, "build", _in_parallel),
            _replaced(CppWrapperCpu, "generate_input_output_runtime_checks", _without_inputs),
        ):
            graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves)
            small = leaves[0].device.type == "cpu" and _largest(graph) <= SMALL
            with inductor.config.patch(_one_piece(inductor.config, pool) if small else {}):
                inductor.aot_compile(graph, tuple(leaves))
        made.replace(library)


def _one_piece(config: Any, pool: str) -> dict[str, Any]:
    """Return the options that allocate the memory of a function as one piece; none if this version of torch can't."""
    from torch._inductor.codegen import memory_planning

    options = {"memory_planning": True, "memory_pool": pool}
    # what came with this method freed the pieces, of which earlier versions lost some
    mended = hasattr(memory_planning.Allocation, "get_earliest_available")
    return options if mended and all(_knows(config, name) for name in options) else {}


def _largest(graph: Any) -> int:
    """Return the size of the largest tensor in a graph, in bytes."""
    found = (tree_leaves(node.meta.get("val")) for node in graph.graph.nodes)
    return max(int(made.nbytes) for each in found for made in each if isinstance(made, Tensor))


def _knows(config: Any, name: str) -> bool:
    """Return whether this version of torch has an option."""
    try:
        attrgetter(name)(config)
    except AttributeError:
        return False
    return True


Method = Callable[..., Any]


@contextmanager
def _replaced(kind: Any, name: str, by: Callable[[Method], Method]) -> Iterator[None]:
    """Replace a method of torch's compiler by `by(method)`, to compile faster, if this version of torch has it."""
    method = getattr(kind, name, None)
    if method is None:
        yield
        return
    setattr(kind, name, by(method))
    try:
        yield
    finally:
        setattr(kind, name, method)


def _no_test_program(_: Method) -> Method:
    """Don't build programs to test for instructions on 8-bit and 16-bit numbers: nothing here uses these types.

    They take a second.
    """
    return lambda *_: False


def _without_inputs(write_checks: Method) -> Method:
    """Write no code that checks the shapes of the inputs: `Compiled` has checked them. It takes a second to compile."""

    def write_none(writer: Any) -> None:
        from torch._inductor.virtualized import V

        inputs, V.graph.graph_inputs = V.graph.graph_inputs, {}
        try:
            write_checks(writer)
        finally:
            V.graph.graph_inputs = inputs

    return write_none


def _in_parallel(build: Method) -> Method:
    """Compile the two large files of a library at the same time; the call of the C++ compiler after that waits."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def compile_file(call: Any) -> None:
        try:
            build(call)
        except BaseException as error:
            errors.append(error)

    def start(call: Any) -> None:
        if call.get_target_file_path().endswith((".wrapper.o", ".kernel.o")):
            context = contextvars.copy_context()  # has the options
            threads.append(threading.Thread(target=context.run, args=(compile_file, call), daemon=True))
            threads[-1].start()
            return
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        build(call)

    return start


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Make torch's compiler use `folder`, and restore the environment variables afterwards."""
    before = dict(os.environ)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
