"""What this machine offers, and the path that each stage will take on it."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "torch", "torchaudio", "nvidia-dali-cuda130", "faiss-gpu", "webdataset", "numba",
    "numba-cuda", "av", "simplejpeg", "scikit-learn",
)  # fmt: skip
NVDEC = "libnvcuvid.so.1"


def examine() -> dict[str, dict[str, str]]:
    """The report of `xdc doctor`: versions, the machine, and the path of each stage, by name."""
    parts = {"versions": versions(), "machine": machine(), "stages": stages()}
    return {title: dict(rows) for title, rows in parts.items()}


def describe_report(found: dict[str, dict[str, str]]) -> Iterator[str]:
    """The report in lines."""
    for number, (title, rows) in enumerate(found.items()):
        if number:
            yield ""
        yield title
        yield from (f"  {name:20} {what}" for name, what in rows.items())


def versions() -> list[tuple[str, str]]:
    rows = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed; pip install -e . brings it"))
    return rows


def machine() -> list[tuple[str, str]]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    rows = [
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("memory", f"{memory:.0f} GiB"),
        ("GPU", gpu()),
        ("CUDA kernels", kernels()),
        ("NVDEC", nvdec()),
        ("DALI", importable("nvidia.dali")),
        ("threads", threads()),
    ]
    if os.environ.get("NUMBA_ENABLE_CUDASIM"):
        rows.append(("numba CUDA", "the simulator (NUMBA_ENABLE_CUDASIM is set)"))
    return rows


def stages() -> list[tuple[str, str]]:
    import torch

    cuda = torch.cuda.is_available()
    why = "a CUDA device is usable" if cuda else "no CUDA device is usable"
    return [
        ("packing", "PyAV on the CPU, a process per worker"),
        ("clips", f"{'DALI on the GPU' if cuda else 'host path'}, since {why}"),
        ("log-mel", f"numba {'CUDA' if cuda else 'CPU'} kernel, since {why}"),
        ("encoders", f"{'cuda' if cuda else 'cpu'}, since {why}"),
        ("k-means", f"{'cuda' if cuda else 'cpu'}, since {why}"),
    ]


def gpu() -> str:
    import torch

    if torch.version.cuda is None:
        return f"none: torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "none usable: no device, or no driver for CUDA " + torch.version.cuda
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(names)} (CUDA {torch.version.cuda})"


def kernels() -> str:
    """Whether numba compiles for the device: its compiler is a package of its own."""
    import torch

    if not torch.cuda.is_available():
        return "not tried: no CUDA device is usable"
    from numba import cuda

    import xdc_fast.kernels._cuda  # noqa: F401  one thread is no reason to warn

    @cuda.jit
    def put(out: Any) -> None:
        out[0] = 1

    out = torch.zeros(1, dtype=torch.int32, device="cuda")
    try:
        put[1, 1](cuda.as_cuda_array(out))
    except Exception as error:  # of numba, the compiler, the linker or the driver, any kind
        why = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return f"do not compile: {why}; pip install 'numba-cuda[cu13]' brings the compiler"
    return "compile and run" if int(out) else "compile, and do nothing"


def nvdec() -> str:
    try:
        ctypes.CDLL(NVDEC)
    except OSError:
        return (
            f"no {NVDEC}; in a container start it with "
            "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"
        )
    return f"{NVDEC} loads"


def importable(module: str) -> str:
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"does not import: {error}"
    return "imports"


def threads() -> str:
    """How many threads encoders, k-means and kernels take, and what says so."""
    import torch

    given = os.environ.get("OMP_NUM_THREADS")
    why = "OMP_NUM_THREADS" if given else "as many as cores; OMP_NUM_THREADS changes it"
    return f"{torch.get_num_threads()} ({why})"
