"""The CUDA log-mel kernel as machine code for an H100 (sm_90): counted, without a GPU.

PyTorch's wheel brings ptxas, Triton's brings nvdisasm.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import torch
import triton

from benchmarks.harness import Figure
from benchmarks.stages.logmel import SPECS
from xdc_fast.kernels import MelSpec

THREADS = (1,)
PTXAS = Path(torch.__file__).parent / "bin" / "ptxas"
NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"

# A multiprocessor of an H100 (CUDA C++ Programming Guide, compute capability 9.0).
REGISTERS = 65_536
SHARED_BYTES = 227 * 1024
BLOCK_BYTES = 1024  # of shared memory that the system takes from each block
WARPS, WARP = 64, 32
BLOCKS = 32

INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d\s+)?([A-Z][A-Z0-9_.]*)(.*?);", re.M
)
LABEL = re.compile(r"^(\.L_x_\d+):\s+/\*([0-9a-f]{4,})\*/", re.M)
PADDING = "NOP"


@dataclass(frozen=True)
class MachineCode:
    """A kernel as ptxas leaves it.

    instructions: of a thread that takes no branch and each loop once. loops: branches backwards.
    local_bytes: memory of a thread for what is not in registers, spilled registers included.
    """

    instructions: int
    loops: int
    calls: int
    registers: int
    shared_bytes: int
    local_bytes: int

    def occupancy(self, threads: int) -> float:
        """The share of an H100's warps that are in use, for blocks of this many threads."""
        warps = -(-threads // WARP)
        per_warp = -(-self.registers * WARP // 256) * 256  # registers are given out by 256
        blocks = min(
            BLOCKS,
            WARPS // warps,
            REGISTERS // (per_warp * warps),
            SHARED_BYTES // (self.shared_bytes + BLOCK_BYTES),
        )
        return blocks * warps / WARPS


def cases(quick: bool, threads: int) -> Iterator[Figure]:
    from xdc_fast.kernels.logmel_cuda import specialise

    for spec in SPECS[:1] if quick else SPECS:
        for integer in (True,) if quick else (False, True):
            kernel = specialise(spec, integer)
            code = assemble(log_mel_ptx(spec, integer))
            if code.loops or code.calls or code.local_bytes:
                raise ValueError(f"{spec}: what a thread runs cannot be counted: {code}")
            size = f"{spec.n_fft}/{spec.win_length}/{spec.hop_length}, {spec.n_mels} mels"
            size += ", int16" if integer else ", float32"
            block = kernel.threads * kernel.frames
            for what, unit, value in (
                ("instructions", "of all threads per frame", code.instructions * kernel.threads),
                ("registers", "per thread", code.registers),
                ("occupancy", "share of an H100's warps", code.occupancy(block)),
            ):
                yield Figure(f"{what}, {size}", unit, [value])


def log_mel_ptx(spec: MelSpec, integer: bool) -> str:
    """The kernel of a specification, for int16 or float32, as PTX for sm_90."""
    from numba import cuda

    from xdc_fast.kernels.logmel_cuda import specialise

    table, out = numba.float32[::1], numba.float32[:, :, ::1]
    waveform = (numba.int16 if integer else numba.float32)[:, ::1]
    signature = (waveform, numba.int64, table, table, table, numba.int32[::1], table, out)
    ptx, _ = cuda.compile_ptx(specialise(spec, integer).function.py_func, signature, cc=(9, 0))
    return ptx


def assemble(ptx: str) -> MachineCode:
    """What ptxas makes of PTX for sm_90."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        said = run(PTXAS, "-arch=sm_90", "-v", source, "-o", binary)
        sass = run(NVDISASM, "-c", binary)
    found = INSTRUCTION.findall(sass)
    places = {label: int(place, 16) for label, place in LABEL.findall(sass)}
    names = [name for _, name, _ in found if name != PADDING]
    loops = 0
    for place, name, rest in found:
        target = re.search(r"\.L_x_\d+", rest)
        # the last branch is to itself, behind the exit
        loops += name == "BRA" and target is not None and places[target[0]] < int(place, 16)
    return MachineCode(
        instructions=len(names),
        loops=loops,
        calls=sum(name.startswith("CALL") for name in names),
        registers=number(r"Used (\d+) registers", said),
        shared_bytes=number(r"(\d+) bytes smem", said),
        local_bytes=number(r"(\d+) bytes stack frame", said),
    )


def run(*command: object) -> str:
    """What a tool prints on both of its outputs."""
    return subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        text=True,
    ).stdout


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
