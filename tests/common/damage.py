"""What may have become of a file."""

import copy
import io
import pickle
import random
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

WRONG = (None, "text", [], {}, -(10**25), float("nan"), True, [[1]], {"a": "\ud800"})


class Foreign:
    """Of a pickle that would call something."""

    def __reduce__(self):
        return Path.touch, (Path("called"),)


def damages(content: bytes) -> dict[str, bytes]:
    """{what happened: what the file then holds}; no reader may take any of them."""

    def saved(save, value):
        buffer = io.BytesIO()
        save(buffer, value)
        return buffer.getvalue()

    return {
        "empty": b"",
        "half": content[: len(content) // 2],
        "random": random.Random(0).randbytes(2000),
        "list": b"[1]\n",
        "text": b'"text"\n',
        "number": b"3\n",
        "null": b"null\n",
        "NaN": b"NaN\n",
        "nothing in it": b"{}\n",
        "nested": b"[" * 200_000 + b"\n",
        "nested objects": b'{"a":' * 100_000 + b"\n",
        "many digits": b'{"iteration": ' + b"9" * 5000 + b"}\n",
        "Latin-1": '{"ä": 1}\n'.encode("latin-1"),
        "npy": saved(np.save, np.zeros(3)),
        "other npz": saved(np.savez, np.zeros(3)),
        "objects": saved(np.save, np.array([{}], object)),
        "other tensors": saved(lambda f, v: torch.save(v, f), {"a": torch.zeros(3)}),
        "tensors in a list": saved(lambda f, v: torch.save(v, f), [torch.zeros(3)]),
        "foreign class": saved(lambda f, v: torch.save(v, f), {"video": Foreign()}),
        "pickle": pickle.dumps(Foreign()),
    }


def wrong_values(document):
    """(place, document) for every place of a JSON document: it lacks, or holds another kind."""
    kinds = cycle(WRONG)
    for place in _places(document):
        for change in ("lacks", next(kinds), next(kinds)):
            changed = copy.deepcopy(document)
            *outer, last = place
            at = changed
            for key in outer:
                at = at[key]
            if change == "lacks":
                del at[last]
            else:
                at[last] = change
            yield f"{place}: {change}", changed


def _places(value, place=()):
    if place:
        yield place
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*place, key))
