"""Cross-Modal Deep Clustering: from a pile of unlabeled videos to video and audio encoders."""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "load":  # torch and the rest are imported only by who loads a model
        from xdc_fast.models.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
