"""Names and numbers as the page shows them."""

from __future__ import annotations

from xdc_fast.encoders.build import TWIN, modality_of

# in the order of the page
CLUSTERINGS = ("video", "video_twin", "audio", "audio_twin", "joint", "label")
METHODS = {"same": "Same-modality control", "supervised": "Supervised"}  # others: acronyms


def method_name(method: str) -> str:
    """A method of a recipe, for people."""
    return METHODS.get(method, method.upper())


def words(name: str) -> str:
    """The name of a head or a clustering, for people."""
    return name.replace("_", " ")


def heading(clustering: str) -> str:
    """The title of a clustering's section."""
    return "Classes" if clustering == "label" else f"{words(clustering).capitalize()} clusters"


def kind(encoder: str) -> str:
    """The CSS classes of an encoder or its clustering: its modality's colour; a twin is dashed."""
    if encoder == "label":
        return "classes"
    return modality_of(encoder) + " twin" * encoder.endswith(TWIN)


def seconds(value: float) -> str:
    """A duration as hours and minutes, or minutes and seconds."""
    whole = round(value)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def thousandths(value: float | None) -> str:
    """A number with three decimals, never minus zero; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\N{MINUS SIGN}")


def share(value: float) -> str:
    """A number from 0 to 1 in percent."""
    return f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"
