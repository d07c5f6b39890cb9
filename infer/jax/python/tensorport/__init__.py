"""Hugging Face checkpoints in JAX as they lie: packed weights, computed on without expanding them."""

from tensorport import attention, dense, mxfp4
from tensorport.mxfp4 import MXFP4Array

__all__ = ["MXFP4Array", "attention", "dense", "mxfp4"]
__version__ = "0.1.0"
