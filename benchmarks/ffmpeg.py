"""FFmpeg's libraries, from PyAV's wheel, for peers that expect them in the system."""

from __future__ import annotations

import re
from pathlib import Path

import av


def link_ffmpeg(folder: Path) -> None:
    """Links to the wheel's libraries under the names that the dynamic linker looks for.

    libavcodec-5e6b81c2.so.62.28.102 becomes libavcodec.so.62. Does nothing where PyAV was built
    against the system's FFmpeg.
    """
    for library in (Path(av.__file__).parents[1] / "av.libs").glob("lib*.so.*"):
        (folder / library.name).symlink_to(library)  # they look for each other beside themselves
        if found := re.match(r"(lib(?:av|sw)\w+)-\w+(\.so\.\d+)", library.name):
            (folder / f"{found[1]}{found[2]}").symlink_to(library)
