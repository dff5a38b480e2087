"""What a run says of itself: metric lines, TensorBoard, a line per iteration, the summary."""

from __future__ import annotations

import logging
import math

from torch.utils.tensorboard import SummaryWriter

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.errors import UserError
from xdc_fast.pretraining.methods import heads_of
from xdc_fast.pretraining.run import Run

log = logging.getLogger(__name__)

STEP_LINES = 50  # logged per iteration


class Log:
    """Writes a run's metrics, from (iteration, step) on: what stood behind it is dropped."""

    def __init__(self, run: Run, iteration: int, step: int, steps: int):
        self.run, self.steps = run, steps
        self.every = max(steps // STEP_LINES, 1)
        run.keep_metrics(iteration, step)
        self.board = SummaryWriter(run.root / "tensorboard", purge_step=iteration * steps + step)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        self.board.close()

    def step(self, iteration: int, step: int, figures: dict, bar, saving: bool) -> None:
        """Every few steps, a line of the step's losses and accuracies.

        saving: a checkpoint follows, so look in any case. Raises UserError when a loss is not
        finite; the last checkpoint was sound.
        """
        if step % self.every and step != self.steps and not saving:
            return
        line = {k: float(v) for k, v in figures.items() if k.endswith(("_loss", "_accuracy"))}
        for key, value in line.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{self.run.root}: {key} is {value} at iteration {iteration + 1}, step {step}; "
                    "the checkpoint before it is kept; lower train.lr in a new run"
                )
            self.board.add_scalar(f"step/{key}", value, iteration * self.steps + step)
        self.run.add_metrics({"iteration": iteration, "step": step, **line})
        losses = {k.removesuffix("_loss"): f"{v:.2f}" for k, v in line.items() if "_loss" in k}
        bar.set_postfix(losses, refresh=False)

    def iteration(self, state, loader) -> dict:
        """The record of a finished iteration: kept, shown on TensorBoard and as one line."""
        recipe, sums, clusters = self.run.recipe, state.sums, state.clusters
        record: dict = {"iteration": state.iteration}
        for modality in MODALITIES:
            heads = [h.name for h in heads_of(recipe.method) if h.encoder == modality]
            mean = {key: float(value) / sums["steps"] for key, value in sums.items()}
            record[f"{modality}_loss"] = sum(mean[f"{name}_loss"] for name in heads)
            record[f"{modality}_accuracy"] = sum(mean[f"{n}_accuracy"] for n in heads) / len(heads)
            own = clusters.get(modality) or clusters.get("joint")
            record[f"nmi_previous_{modality}"] = own and own["nmi_previous"]
        record["nmi_audio_video"] = clusters["nmi_audio_video"]
        record["clips_per_second"] = sums["steps"] * recipe.train.batch / sums["seconds"]
        record["data_wait_share"] = sums["wait"] / sums["seconds"]
        record["clusters"] = clusters
        record["unreadable"] = dict(loader.failures)
        self.run.add_metrics(record)
        end = (state.iteration + 1) * self.steps
        for key, value in record.items():
            if isinstance(value, (int, float)) and key != "iteration":
                self.board.add_scalar(f"iteration/{key}", value, end)
        log.info(line_of(record))
        for reason, message in loader.examples.items():
            log.warning(
                "  %d clips replaced, %s; the first: %s", loader.failures[reason], reason, message
            )
        loader.failures.clear()
        loader.examples.clear()
        return record


def line_of(record: dict) -> str:
    """One iteration in one line."""

    def show(value, form: str = ".2f") -> str:
        return "-" if value is None else format(value, form)

    parts = [f"iteration {record['iteration'] + 1}"]
    for modality in MODALITIES:
        parts.append(
            f"{modality} loss {show(record[f'{modality}_loss'])} "
            f"acc {show(record[f'{modality}_accuracy'])} "
            f"nmi(t,t-1) {show(record[f'nmi_previous_{modality}'])}"
        )
    parts.append(f"nmi(a,v) {show(record['nmi_audio_video'])}")
    for name, figures in record["clusters"].items():
        if isinstance(figures, dict):
            s = figures["sizes"]
            parts.append(
                f"{name} clusters {s['min']}-{s['median']:.0f}-{s['max']}, "
                f"{s['effective']:.0f} effective"
            )
    parts.append(f"{record['clips_per_second']:.0f} clips/s")
    parts.append(f"waiting {record['data_wait_share']:.0%}")
    return " · ".join(parts)


def summarise(run, shards, state) -> dict:
    """summary.json: the contract's keys first, then what else an iteration recorded."""
    return {
        "method": run.recipe.method,
        "k": run.recipe.k,
        "samples": len(shards),
        "iterations": state.records,
        "seconds": state.seconds,
        "data": run.trained_on,
    }
