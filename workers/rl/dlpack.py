"""Observations from the engine's library to torch without a copy, by DLPack.

JAX and torch order their work on a GPU each on a stream of its own. DLPack makes torch's stream
wait for an array that is not ready; nothing makes JAX wait for torch. Whoever takes a view must
therefore have read it (the host must have waited for a result of it) before the engine is called
again, which may write where the view points. Knows no environment and no algorithm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(array: Any) -> Tensor:
    """A tensor on the memory of ``array`` (JAX or numpy), on the device where it is.

    Only to be read, and only until the engine's next call: JAX takes its arrays for immutable. An
    array that numpy marks as read-only is copied, since torch cannot express that.
    """
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    kind, _ = array.__dlpack_device__()
    if kind == _CPU:
        # There are no streams to wait on: the host itself waits.
        array.block_until_ready()
    view: Tensor = torch.from_dlpack(array)
    return view


_CPU = 1
"""DLPack's number of host memory."""


def torch_type(observation_type: type[np.generic]) -> torch.dtype:
    """Torch's type of the same numbers."""
    return torch.from_numpy(np.empty(0, observation_type)).dtype
