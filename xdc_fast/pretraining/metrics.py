"""A run's metrics as it goes: lines of metrics.jsonl, and the same numbers for TensorBoard."""

from __future__ import annotations

import os

from torch.utils.tensorboard import SummaryWriter

from xdc_fast.pretraining.run import Run

STEP_LINES = 50  # logged per iteration


def is_logged(step: int, steps: int) -> bool:
    """Whether a step of an iteration, counted from 1, is logged."""
    return step % max(steps // STEP_LINES, 1) == 0 or step == steps


class MetricsLog:
    """Writes a run's metrics, from (iteration, step) on: later ones of an earlier try are dropped.

    steps: the steps of an iteration.
    """

    def __init__(self, run: Run, iteration: int, step: int, steps: int):
        self.run, self.steps = run, steps
        run.keep_metrics(iteration, step)
        folder = run.root / "tensorboard"
        folder.mkdir(exist_ok=True)
        self.folder = os.open(folder, os.O_RDONLY)  # TensorBoard takes names in UTF-8 alone
        self.board = SummaryWriter(
            f"/proc/self/fd/{self.folder}", purge_step=iteration * steps + step
        )

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.board.close()
        os.close(self.folder)

    def step(self, iteration: int, step: int, metrics: dict[str, float]) -> None:
        """Logs a step's metrics, finite numbers by name."""
        for key, value in metrics.items():
            self.board.add_scalar(f"step/{key}", value, iteration * self.steps + step)
        self.run.add_metrics({"iteration": iteration, "step": step, **metrics})

    def iteration(self, record: dict) -> None:
        """Logs the record of a finished iteration."""
        self.run.add_metrics(record)
        end = (record["iteration"] + 1) * self.steps
        for key, value in record.items():
            if isinstance(value, (int, float)) and key != "iteration":
                self.board.add_scalar(f"iteration/{key}", value, end)
