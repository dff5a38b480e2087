"""Arrays and streams of other libraries as numba's."""

from typing import Any

from numba import config, cuda

from ._arrays import CudaArray

THREADS = 128

# a batch of 32 clips is too small to fill a large GPU, and is no reason to warn at each launch
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


def as_device(array: CudaArray) -> CudaArray:
    """A device array of any library, not copied. Raises TypeError for other arrays."""
    if hasattr(array, "__cuda_array_interface__"):
        return cuda.as_cuda_array(array)
    if config.ENABLE_CUDASIM:
        return array.numpy() if hasattr(array, "numpy") else array
    raise TypeError(f"expected an array on a CUDA device, got {type(array).__name__}")


def as_stream(stream: Any) -> Any:
    """A numba stream, or the stream of a handle (torch.cuda.Stream.cuda_stream); 0 is default."""
    return cuda.external_stream(stream) if isinstance(stream, int) and stream else stream
