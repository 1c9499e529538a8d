"""Ahead-of-time compilation of the catalogue to PTX and cubin. Needs Triton, and no GPU."""

import hashlib
import importlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

from flashvsr_trt.errors import UsageError, named_missing_parts
from flashvsr_trt.files.folder import BadFileError, describe_file, read_checked
from flashvsr_trt.files.new import new_folder, write_errors
from flashvsr_trt.imported_sources import sources_digest
from flashvsr_trt.kernels.catalogue import DTYPES, HEAD_DIMS, KernelSpec, kernel_specs
from flashvsr_trt.kernels.manifest import (
    MANIFEST,
    SCRATCH_WORD_BYTES,
    Argument,
    Artifact,
    read_manifest,
    write_manifest,
)
from flashvsr_trt.kernels.ptx import assemble, drop_parameters, read_signature
from flashvsr_trt.kernels.tuning import (
    ARCHITECTURES,
    PLAIN_SHARED_LIMIT,
    SHARED_LIMIT,
    capability_number,
)
from flashvsr_trt.signals import end_with_parent

LOG = logging.getLogger(__name__)

PTX_VERSION = 87
"""PTX ISA 8.7: the oldest that knows sm_120, so that drivers of CUDA 12.8 and newer can load it."""

_PTX_TYPES = {"i32": "u32"}


def build_kernels(
    architectures: tuple[str, ...],
    directory: Path,
    dtypes: tuple[str, ...] = DTYPES,
    workers: int = 2,
    head_dims: tuple[int, ...] = HEAD_DIMS,
) -> list[Artifact]:
    """Compiles every kernel for every architecture into `directory`, and writes its manifest.

    Files that are there already and were made from the same source, constants and Triton are kept.

    Raises:
        UsageError: an architecture or dtype that is not known.
        FileError: the directory cannot be written.
        MissingDependencyError: Triton is not installed, or too old for an architecture.
        ValueError: a kernel does not fit its architecture, or its signature is not the declared one.
    """
    unknown = [name for name in architectures if name not in ARCHITECTURES]
    if unknown or not architectures:
        raise UsageError(
            f"no kernels for {', '.join(unknown) or 'no'} architecture; use {', '.join(ARCHITECTURES)}"
        )
    if not set(dtypes) <= set(DTYPES):
        raise UsageError(f"no kernels in precision {', '.join(dtypes)}; use {', '.join(DTYPES)}")
    version = _triton_version(architectures)
    kept = {}
    if os.path.lexists(directory / MANIFEST):
        try:
            kept = {artifact.hash: artifact for artifact in read_manifest(directory, files=False)}
        except UsageError as error:
            LOG.warning("all kernels are compiled again: %s", error)
    wanted = {
        _hash(spec, architecture, version): (spec, architecture)
        for architecture in architectures
        for spec in kernel_specs(architecture, dtypes, head_dims)
    }
    done = {key: item for key, item in kept.items() if key in wanted and _complete(directory, item)}
    missing = {key: each for key, each in wanted.items() if key not in done}
    with write_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        # What is in the directory besides is the user's, and stays.
        with new_folder(directory, overwrite=True, owns=lambda name: False) as folder:
            made = _compile_all(list(missing.values()), Path(folder.part), workers)
            done |= zip(missing, made, strict=True)
            artifacts = [done[key] for key in wanted]
            write_manifest(Path(folder.part), artifacts)
            folder.finish()
    return artifacts


def _compile_all(wanted: list[tuple[KernelSpec, str]], directory: Path, workers: int) -> list[Artifact]:
    # A spawned process has its own Triton: compiling is not safe in threads, nor after a fork.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker)
    try:
        with _no_main_module():
            jobs = [pool.submit(compile_kernel, *spec, directory) for spec in wanted]
        return [job.result() for job in jobs]
    except BaseException:
        # Nobody waits for kernels that nobody will use. A copy, as the pool forgets them.
        workers_now = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers_now:
            worker.terminate()
        raise
    finally:
        pool.shutdown()


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Within it processes are spawned that do not import the program's main module: they need nothing of it.

    A script without `if __name__ == "__main__"` would run again in each, and wait for what this one makes.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def compile_kernel(spec: KernelSpec, architecture: str, directory: Path) -> Artifact:
    """Compiles one kernel and writes its PTX and cubin."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    number = capability_number(architecture)
    function = getattr(importlib.import_module(spec.module), spec.function)
    position = {name: place for place, name in enumerate(function.arg_names)}
    types = {argument.name: argument.type for argument in spec.arguments}
    source = (GluonASTSource if spec.gluon else ASTSource)(
        function,
        {name: types.get(name, "constexpr") for name in function.arg_names},
        {(position[name],): _constant(value) for name, value in spec.constants.items()},
        {(position[item.name],): [["tt.divisibility", 16]] for item in spec.arguments if item.aligned},
    )
    options = {
        "num_warps": spec.setting.num_warps,
        "num_stages": spec.setting.num_stages,
        "ptx_version": PTX_VERSION,
        "enable_fp_fusion": True,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", number, 32), options=options)
    metadata = compiled.metadata
    arguments = spec.arguments + _scratch(spec, metadata)
    ptx = drop_parameters(_without_debug(compiled.asm["ptx"]), keep=len(arguments))
    _check_signature(spec.name, ptx, arguments)
    limit = PLAIN_SHARED_LIMIT if spec.small else SHARED_LIMIT[architecture]
    if metadata.shared > limit:
        raise ValueError(
            f"{spec.name} takes {metadata.shared} bytes of shared memory; on {architecture} it may take "
            f"{limit}: change its entry in tuning.json"
        )
    target = f"{architecture}a" if number >= 90 else architecture
    assembled = assemble(ptx, target, knobs.nvidia.ptxas.path)
    stem = f"{spec.name}.{architecture}"
    directory.joinpath(f"{stem}.ptx").write_text(ptx)
    directory.joinpath(f"{stem}.cubin").write_bytes(assembled.cubin)
    return Artifact(
        name=spec.name,
        kernel=spec.kernel,
        architecture=architecture,
        entry=metadata.name,
        ptx=describe_file(directory / f"{stem}.ptx"),
        cubin=describe_file(directory / f"{stem}.cubin"),
        arguments=arguments,
        constants=spec.constants,
        grid=spec.grid,
        # A warp-specialised kernel has more warps than it was compiled with: the metadata knows.
        block=metadata.num_warps * 32,
        shared_bytes=metadata.shared,
        cluster=metadata.num_ctas,
        registers=assembled.registers,
        spill_bytes=assembled.spill_bytes,
        triton=triton.__version__,
        hash=_hash(spec, architecture, triton.__version__),
    )


def _begin_worker() -> None:
    end_with_parent()
    os.environ.pop("TRITON_INTERPRET", None)


def _constant(value: int | float | str):
    import triton.language as tl

    return tl.dtype(value) if isinstance(value, str) else value


def _scratch(spec: KernelSpec, metadata) -> tuple[Argument, ...]:
    """Triton ends every signature with two scratch pointers; only one that is needed stays, as an output.

    It is a tensor of int32: TensorRT has rules of its own for int8 ones, which it takes as quantised.
    """
    if metadata.profile_scratch_size:
        raise ValueError(f"{spec.name} was compiled for profiling; unset Triton's instrumentation variables")
    if not metadata.global_scratch_size:
        return ()
    programs = " * ".join(f"({part})" for part in spec.grid)
    words = -(-metadata.global_scratch_size // SCRATCH_WORD_BYTES)
    size = f"{words} * {programs}"
    return (Argument("scratch", "scratch", "*i32", shape=(size,), aligned=True),)


def _without_debug(ptx: str) -> str:
    """PTX without line tables: they hold this machine's paths, and the file must not depend on them."""
    lines = [line for line in ptx.splitlines() if not line.lstrip().startswith((".loc", ".file"))]
    text = "\n".join(lines)
    return text.split("\t.section\t.debug")[0].rstrip() + "\n"


def _check_signature(name: str, ptx: str, arguments: tuple[Argument, ...]) -> None:
    found = [kind for kind, _ in read_signature(ptx)[1]]
    declared = [_PTX_TYPES.get(argument.type, "u64") for argument in arguments]
    if found != declared:
        raise ValueError(f"{name} was compiled with parameters {found}, but {declared} were declared")


def _complete(directory: Path, artifact: Artifact) -> bool:
    """Whether a kernel is there with every byte that was written."""
    try:
        for file in artifact.files:
            read_checked(directory, file)
    except BadFileError:
        return False
    return True


def source_hash(spec: KernelSpec, architecture: str) -> str:
    """Of everything that decides what a kernel computes and how: its sources, constants and arguments.

    Needs no Triton, so that what was built can be told from what would be built anywhere.
    """
    sources = [sources_digest(module) for module in (spec.module, __name__)]
    facts = json.dumps([asdict(spec), architecture, PTX_VERSION, *sources], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()


def _hash(spec: KernelSpec, architecture: str, version: str) -> str:
    return hashlib.sha256(f"{source_hash(spec, architecture)} Triton {version}".encode()).hexdigest()


def _triton_version(architectures: tuple[str, ...]) -> str:
    """Of the Triton here, which compiles for these."""
    with named_missing_parts():
        import triton
    from flashvsr_trt.kernels.optional_triton import check_triton

    for architecture in architectures:
        check_triton(architecture)
    return triton.__version__
