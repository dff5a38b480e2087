"""The registry: every module here is a stage.

It has THREADS and cases(quick, threads), cuda_cases(quick, threads) for a GPU, or both; they yield
Cases and Figures.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def stage_names() -> list[str]:
    """The stages, in alphabetical order."""
    return sorted(module.name for module in iter_modules(__path__))


def load_stage(name: str) -> ModuleType:
    """A stage's module."""
    return import_module(f"{__name__}.{name}")
