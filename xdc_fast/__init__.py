"""Cross-Modal Deep Clustering: from a pile of unlabeled videos to video and audio encoders.

The names in `__all__` are the public interface. They load their modules when they are first used,
so that `import xdc_fast` costs nothing. Their examples run in a folder that holds `videos`, the
toy world of `xdc-shard toy videos --videos 48 --classes 4`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xdc_fast.api import kmeans as kmeans
    from xdc_fast.api import log_mel as log_mel
    from xdc_fast.api import nmi as nmi
    from xdc_fast.api import pack as pack
    from xdc_fast.api import pretrain as pretrain
    from xdc_fast.clips.batch import Batch as Batch
    from xdc_fast.clips.clip_loader import ClipLoader as ClipLoader
    from xdc_fast.clips.windows import ClipShape as ClipShape
    from xdc_fast.errors import UserError as UserError
    from xdc_fast.kernels.mel import MelSpec as MelSpec
    from xdc_fast.models.load import load as load
    from xdc_fast.shards.dataset import ShardSet as ShardSet

__version__ = "0.1.0"

_MODULES = {
    "Batch": "xdc_fast.clips.batch",
    "ClipLoader": "xdc_fast.clips.clip_loader",
    "ClipShape": "xdc_fast.clips.windows",
    "MelSpec": "xdc_fast.kernels.mel",
    "ShardSet": "xdc_fast.shards.dataset",
    "UserError": "xdc_fast.errors",
    "kmeans": "xdc_fast.api",
    "load": "xdc_fast.models.load",
    "log_mel": "xdc_fast.api",
    "nmi": "xdc_fast.api",
    "pack": "xdc_fast.api",
    "pretrain": "xdc_fast.api",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
