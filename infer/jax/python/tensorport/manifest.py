"""manifest.json of a view, as its reader takes it: tensorport-manifest(5).

Untrusted: a copy of a view may come from anywhere. What is checked here holds afterwards: names are
unique, files stay inside the view, and sizes are what shape and dtype give.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["Entry", "Manifest", "read_manifest"]

FORMAT_VERSION = 1

_ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
_NUMPY = ("float64", "float32", "float16", "complex64", "bool", "int8", "int16", "int32", "int64", "uint8",
          "uint16", "uint32", "uint64")
DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _ML_DTYPES},
    **{name: np.dtype(name) for name in _NUMPY},
}


@dataclass(frozen=True)
class Entry:
    """One tensor, and where its bytes are.

    `pieces` is None for a .npy file of its own, whose data is at its end; in a container they are
    the (offset, nbytes) of the data, in order.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int
    pieces: tuple[tuple[int, int], ...] | None = None
    transposed: bool = False


@dataclass(frozen=True)
class Manifest:
    """What the manifest says of the whole, and its tensors by name, in the order of the checkpoint."""

    source: str
    precision: str
    mxfp4: str
    format: str
    tensors: dict[str, Entry]


def read_manifest(path: Path) -> Manifest:
    """Reads and checks `path`. ValueError with file, tensor, expected and found."""
    try:
        return _manifest(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _member(item: dict, name: str, kind: type) -> Any:
    value = item.get(name)
    if not isinstance(value, kind):
        found = "none" if name not in item else repr(value)[:60]
        raise ValueError(f"{name}: expected {kind.__name__}, found {found}")
    return value


def _manifest(top: Any) -> Manifest:
    if not isinstance(top, dict):
        raise ValueError("expected an object")
    version = top.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version: expected {FORMAT_VERSION}, found {version!r}; a newer tensorport wrote it")
    tensors: dict[str, Entry] = {}
    for i, item in enumerate(_member(top, "tensors", list)):
        name = item.get("name") if isinstance(item, dict) else None
        try:
            if not isinstance(item, dict):
                raise ValueError("expected an object")
            entry = _entry(item)
        except ValueError as error:
            raise ValueError(f"tensor {name if isinstance(name, str) else i!r}: {error}") from None
        if entry.name in tensors:
            raise ValueError(f"tensor {entry.name} appears twice")
        tensors[entry.name] = entry
    def text(key: str) -> str:
        return str(top.get(key, ""))

    return Manifest(text("source"), text("precision"), text("mxfp4"), text("format"), tensors)


def _entry(item: dict) -> Entry:
    shape = _member(item, "shape", list)
    if not all(map(_is_count, shape)):
        raise ValueError(f"shape: expected whole numbers, found {shape}")
    type_name = _member(item, "dtype", str)
    if type_name not in DTYPES:
        raise ValueError(f"dtype: expected a type such as bfloat16, found {type_name!r}")
    dtype, nbytes = DTYPES[type_name], math.prod(shape) * DTYPES[type_name].itemsize
    if item.get("nbytes") != nbytes:
        raise ValueError(f"nbytes: expected {nbytes} by shape and dtype, found {item.get('nbytes')!r}")
    return Entry(_member(item, "name", str), _file(item), tuple(shape), dtype, nbytes, _pieces(item, nbytes),
                 item.get("transposed") is True)


def _file(item: dict) -> str:
    file = _member(item, "file", str)
    if not file or "\0" in file or file.startswith("/") or ".." in PurePosixPath(file).parts:
        raise ValueError(f"file: expected the name of a file in the view, found {file!r}")
    return file


def _pieces(item: dict, nbytes: int) -> tuple[tuple[int, int], ...] | None:
    chunks: Iterable[Any]
    if "chunks" in item:
        chunks = _member(item, "chunks", list)
    elif "offset" in item:
        chunks = [{"offset": item["offset"], "nbytes": nbytes}]
    else:
        return None
    pieces = []
    for chunk in chunks:
        if not isinstance(chunk, dict) or not _is_count(chunk.get("offset")) or not _is_count(chunk.get("nbytes")):
            raise ValueError(f"expected pieces with offset and nbytes, found {chunk!r}")
        pieces.append((chunk["offset"], chunk["nbytes"]))
    if sum(size for _, size in pieces) != nbytes:
        raise ValueError(f"chunks: expected {nbytes} bytes together, found {sum(size for _, size in pieces)}")
    return tuple(pieces)
