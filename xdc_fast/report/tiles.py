"""The top of the page: headline metrics, and what could not be read."""

from __future__ import annotations

from xdc_fast.report.charts import encoders_of
from xdc_fast.report.wording import share


def make_tiles(
    records: list[dict], probes: list[dict], chance: float | None
) -> list[dict[str, str]]:
    """The headline metrics: value, name, note and, for a modality's colour, kind.

    records: of the run's iterations. probes: results of `xdc probe`, the first is shown. chance: of
    the NMI of audio with video clusters.
    """
    tiles: list[dict[str, str]] = []
    for modality in encoders_of(probes[0]) if probes else ():
        probe = probes[0]
        random, least = share(probe[modality]["random"]), share(probe["chance"])
        tiles.append(
            {
                "value": share(probe[modality]["pretrained"]),
                "name": f"{modality} probe" + ("" if probe["finished"] else " (unfinished)"),
                "note": f"{probe['label']}; random {random}, chance {least}",
                "kind": modality,
            }
        )
    if chance is not None:
        agreement = records[-1]["nmi_audio_video"]
        note = f"chance {chance:.3f}"
        tiles.append({"value": f"{agreement:.3f}", "name": "NMI(audio, video)", "note": note})
    speed, waiting = (
        sum(record[key] for record in records) / len(records)
        for key in ("clips_per_second", "data_wait_share")
    )
    tiles += [
        {"value": f"{speed:,.0f}", "name": "clips per second", "note": "while training"},
        {"value": share(waiting), "name": "waiting for data", "note": "of the training time"},
    ]
    return tiles


def unreadable_note(records: list[dict]) -> str:
    """A sentence about samples and clips that could not be read; empty when all were."""
    unreadable, replaced = records[-1]["clusters"]["n_unreadable"], records[-1]["unreadable"]
    parts = []
    if unreadable:
        parts.append(f"{unreadable} samples could not be read and have no cluster")
    if replaced:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(replaced.items()))
        parts.append(f"{sum(replaced.values())} clips were replaced ({reasons})")
    return "; ".join(parts)
