"""Hugging Face checkpoints in JAX as they lie: packed weights, computed on without expanding them.

    view = tensorport.open("/mnt/jax")          a mount, a copy of one, or a converted folder
    tensorport.mount("gpt-oss-20b")             mounts a checkpoint for as long as it is needed
    tensorport.mxfp4, .attention, .dense        operations on packed weights
    tensorport.nnx, .gpt_oss                    layers and models; they want flax
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tensorport import attention, dense, mxfp4
from tensorport.mounting import Mount, MountError, mount
from tensorport.mxfp4 import MXFP4Array
from tensorport.view import TensorInfo, View
from tensorport.view import open_view as open

if TYPE_CHECKING:
    from tensorport import gpt_oss, nnx

__all__ = ["MXFP4Array", "Mount", "MountError", "TensorInfo", "View", "attention", "dense", "gpt_oss", "mount", "mxfp4",
           "nnx", "open"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What wants flax is imported when it is first used."""
    if name in ("gpt_oss", "nnx"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
