"""A checkpoint's tensors by their true names: `tensorport.open`.

    view = tensorport.open("/mnt/jax")
    view["model.norm.weight"]           # a numpy array on the file's own pages; nothing is copied
    view["model.layers.0.mlp.experts.down_proj"]   # an MXFP4Array of such arrays

Opening reads manifest.json and nothing else. A tensor is mapped when it is first asked for, and its
file checked against the manifest then; its bytes are read when they are used. The arrays are
read-only, and keep their pages when the view is closed or unmounted. A file that is truncated while
it is mapped ends the process (SIGBUS), as with any mapping.
"""

from __future__ import annotations

import difflib
import io
import json
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from .manifest import Entry, read_manifest
from .mxfp4 import MXFP4Array
from .shards import read_region

__all__ = ["Array", "TensorInfo", "View", "as_jax", "open_view"]

Array: TypeAlias = np.ndarray | MXFP4Array

VIEWS = Path(".tensorport/views")
_MADV_POPULATE_READ = 22  # Linux 5.14; the mmap module has no name for it
_PIECE = 8 << 20


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it. `dtype` is numpy's name, or "mxfp4"."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Packed:
    """The two tensors of which one MXFP4 tensor is made."""

    blocks: Entry
    scales: Entry


def open_view(path: str | os.PathLike[str], view: str | None = None) -> View:
    """Opens a mount, a copy of one, or what `tensorport convert` wrote.

    Of a mount the packed view is taken, which has the bytes of the checkpoint: BF16 as bfloat16,
    MXFP4 as MXFP4Array. `view` names another: "float32", "float16", "bfloat16", or "root" for what
    lies at the top. A converted folder has only one.
    """
    top = Path(path)
    if view is None:
        folder = top / VIEWS / "packed"
        return View(folder if folder.is_dir() else top)
    folder = top if view == "root" else top / VIEWS / view
    if not folder.is_dir():
        there = sorted(name for name in ("bfloat16", "float16", "float32", "packed") if (top / VIEWS / name).is_dir())
        raise FileNotFoundError(f"{top}: expected a view called {view!r}, found "
                                + (", ".join(there) if there else "no mount, so view='root' only"))
    return View(folder)


def as_jax(array: Any, device: Any = None) -> Any:
    """The same as jax arrays. On the CPU they are the same pages where the data is aligned to 64
    bytes, as in .npy files; nothing is copied."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, device), array)


class View(Mapping[str, Array]):
    """A mapping from true tensor names to arrays, in the order of the checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(_manifest_path(path))
        self._entries = _paired(self.manifest.tensors)
        self._maps: dict[str, mmap.mmap] = {}
        self._checked: set[str] = set()
        self._lock = threading.Lock()  # of the two above

    def __repr__(self) -> str:
        said = self.manifest
        return f"<tensorport view {self.path}: {len(self)} tensors, precision {said.precision}, mxfp4 {said.mxfp4}>"

    # ---- the mapping

    def __getitem__(self, name: str) -> Array:
        found = self._find(name)
        if isinstance(found, _Packed):
            return MXFP4Array(self._array(found.blocks), self._array(found.scales))
        return self._array(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def info(self, name: str) -> TensorInfo:
        """Shape, dtype, bytes and files, off the manifest."""
        found = self._find(name)
        if isinstance(found, _Packed):
            blocks, scales = found.blocks, found.scales
            return TensorInfo(name, (*scales.shape[:-1], 32 * scales.shape[-1]), "mxfp4", blocks.nbytes + scales.nbytes,
                              (blocks.file, scales.file))
        shape = (*found.shape[:-2], found.shape[-1], found.shape[-2]) if found.transposed else found.shape
        return TensorInfo(name, shape, found.dtype.name, found.nbytes, (found.file,))

    def tree(self) -> dict[str, Any]:
        """All tensors as nested dicts, cut at the dots: tree()["model"]["norm"]["weight"]. Where a
        name is the beginning of another, its tensor is under "" of that dict."""
        branches = {name.rsplit(".", i)[0] for name in self for i in range(1, name.count(".") + 1)}
        top: dict[str, Any] = {}
        for name, array in self.items():
            *path, last = [*name.split("."), ""] if name in branches else name.split(".")
            at = top
            for part in path:
                at = at.setdefault(part, {})
            at[last] = array
        return top

    # ---- other files

    def text(self, name: str) -> str:
        """One of the checkpoint's other files, whole: view.text("config.json")."""
        return (self.path / name).read_text(encoding="utf-8")

    def json(self, name: str) -> dict[str, Any]:
        """The object in one of the other files."""
        try:
            value = json.loads(self.text(name))
        except ValueError as error:
            raise ValueError(f"{self.path / name}: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"{self.path / name}: expected an object")
        return value

    def has_file(self, name: str) -> bool:
        return (self.path / name).is_file()

    # ---- bringing bytes in

    def load(self, names: Iterable[str] | None = None, threads: int = 4) -> int:
        """Reads these tensors (all of them by default) into the page cache and maps the pages, so that
        their first use does not wait. The number of bytes."""
        files = {entry.file for name in (self if names is None else names) for entry in _parts(self._find(name))}
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(self._load_file, sorted(files)))

    def load_sharded(self, name: str | Iterable[str] | None, sharding: Any) -> Any:
        """Tensors as jax arrays with this sharding, each device's part read by itself, and no byte that
        is not in it.

        One name gives one array; several, or None for all, give a dict. `sharding` is a
        jax.sharding.Sharding of the shape that info() says, or a function of a TensorInfo that gives
        one. Blocks and scales of MXFP4 follow the last dimension, which must be cut at multiples of
        32.
        """
        if isinstance(name, str):
            return self._sharded(name, sharding)
        return {each: self._sharded(each, sharding) for each in (self if name is None else name)}

    def close(self) -> None:
        """Forgets the mappings; arrays that were handed out keep theirs."""
        with self._lock:
            self._maps.clear()
            self._checked.clear()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- one tensor

    def _find(self, name: str) -> Entry | _Packed:
        try:
            return self._entries[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._entries, 3) if isinstance(name, str) else []
            hint = f"; near: {', '.join(near)}" if near else ""
            raise KeyError(f"{self.path}: no tensor {name!r} among {len(self)}{hint}") from None

    def _array(self, entry: Entry) -> np.ndarray:
        """On the file's pages; a copy only of what lies there in several pieces."""
        pieces = self._place(entry)
        if entry.nbytes == 0:
            array = np.empty(entry.shape, entry.dtype)
        elif len(pieces) == 1:
            array = np.frombuffer(self._map(entry.file), np.uint8, entry.nbytes, pieces[0][0])
        else:
            data = self._map(entry.file)
            array = np.concatenate([np.frombuffer(data, np.uint8, size, offset) for offset, size in pieces if size])
        array = array.view(entry.dtype).reshape(entry.shape)
        array.flags.writeable = False
        return array.swapaxes(-1, -2) if entry.transposed else array

    def _place(self, entry: Entry) -> tuple[tuple[int, int], ...]:
        """Offset and size of its data's pieces, after a look at the file."""
        size = len(self._map(entry.file))
        if entry.pieces is None:
            self._check_npy(entry, size)
            return ((size - entry.nbytes, entry.nbytes),)
        for offset, length in entry.pieces:
            if offset + length > size:
                raise ValueError(f"{self.path / entry.file}: tensor {entry.name}: expected {length} bytes at {offset}, "
                                 f"found a file of {size}; it was truncated or is no whole copy")
        return entry.pieces

    def _check_npy(self, entry: Entry, size: int) -> None:
        if entry.file in self._checked:
            return
        where = f"{self.path / entry.file}: tensor {entry.name}"
        head = io.BytesIO(_head(self._map(entry.file)))
        try:
            version = np.lib.format.read_magic(head)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(head)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if shape != entry.shape or (fortran and len(shape) > 1):
            raise ValueError(f"{where}: expected shape {entry.shape} as in manifest.json, found {shape}"
                             + (" in Fortran order" if fortran else ""))
        if dtype != _npy_dtype(entry.dtype):
            raise ValueError(f"{where}: expected type {entry.dtype} as in manifest.json, found {dtype}")
        if size != head.tell() + entry.nbytes:
            raise ValueError(f"{where}: expected {entry.nbytes} bytes behind a header of {head.tell()}, found a file of "
                             f"{size}; it was truncated or is no whole copy")
        with self._lock:
            self._checked.add(entry.file)

    # ---- a file

    def _map(self, file: str) -> mmap.mmap:
        with self._lock:
            if file not in self._maps:
                self._maps[file] = _map_file(self.path / file)
            return self._maps[file]

    def _load_file(self, file: str) -> int:
        data, buffer = self._map(file), bytearray(_PIECE)
        with open(self.path / file, "rb", buffering=0) as stream:
            while stream.readinto(buffer):  # far ahead, and without the lock that a fault would hold
                pass
        try:
            data.madvise(_MADV_POPULATE_READ)
        except (OSError, ValueError):
            pass  # an older kernel: the pages are mapped one by one when they are used
        return len(data)

    # ---- sharded

    def _sharded(self, name: str, sharding: Any) -> Any:
        found, info = self._find(name), self.info(name)
        if not isinstance(sharding, jax.sharding.Sharding):
            sharding = sharding(info)
        if isinstance(found, _Packed):
            return MXFP4Array(self._make(found.blocks, _with_dimension(sharding, len(info.shape))),
                              self._make(found.scales, sharding))
        return self._make(found, sharding)

    def _make(self, entry: Entry, sharding: jax.sharding.Sharding) -> jax.Array:
        pieces = self._place(entry)
        if len(pieces) > 1 or entry.transposed:
            whole = self._array(entry)
            return jax.make_array_from_callback(whole.shape, sharding, lambda index: np.ascontiguousarray(whole[index]))
        with open(self.path / entry.file, "rb", buffering=0) as file:
            parts: dict[str, np.ndarray] = {}  # replicas are read once

            def part(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None  # of a sharding with devices of its own
                if str(index) not in parts:
                    parts[str(index)] = read_region(file.fileno(), pieces[0][0], entry.shape, entry.dtype, index)
                return parts[str(index)]

            return jax.make_array_from_callback(entry.shape, sharding, part)


# ---- what needs no view


def _manifest_path(path: Path) -> Path:
    manifest = path / "manifest.json"
    if manifest.is_file():
        return manifest
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    is_checkpoint = any((path / f"model.safetensors{end}").exists() for end in ("", ".index.json"))
    raise FileNotFoundError(f"{path}: expected a mounted checkpoint or a copy of one (manifest.json), found "
                            + ("a checkpoint; mount it first: tensorport.mount(...)" if is_checkpoint else "none"))


def _is_pair(blocks: Entry, scales: Entry | None) -> bool:
    """[..., N, G, 16] and [..., N, G], both bytes."""
    return (scales is not None and blocks.dtype == scales.dtype == np.uint8 and len(scales.shape) >= 2
            and blocks.shape == (*scales.shape, 16) and not blocks.transposed and not scales.transposed)


def _paired(tensors: dict[str, Entry]) -> dict[str, Entry | _Packed]:
    """X_blocks and X_scales become X, where the first of the two was."""
    roots = {}
    for name, entry in tensors.items():
        root = name.removesuffix("_blocks")
        if root != name and root not in tensors and _is_pair(entry, tensors.get(f"{root}_scales")):
            roots[name] = roots[f"{root}_scales"] = root
    out: dict[str, Entry | _Packed] = {}
    for name, entry in tensors.items():
        if name not in roots:
            out[name] = entry
        elif roots[name] not in out:
            root = roots[name]
            out[root] = _Packed(tensors[f"{root}_blocks"], tensors[f"{root}_scales"])
    return out


def _parts(found: Entry | _Packed) -> tuple[Entry, ...]:
    return (found.blocks, found.scales) if isinstance(found, _Packed) else (found,)


def _npy_dtype(dtype: np.dtype) -> np.dtype:
    """As numpy.save writes it and numpy.load takes it: some types have no name there."""
    if dtype.name == "bfloat16":
        return np.dtype("V2")
    return np.dtype(np.uint8) if dtype.name.startswith("float8") else dtype


def _head(data: mmap.mmap) -> bytes:
    """Its first page, and no more of the file: the kernel would read megabytes ahead."""
    if len(data) > 2 * mmap.PAGESIZE:
        data.madvise(mmap.MADV_RANDOM)
    try:
        return data[:mmap.PAGESIZE]
    finally:
        data.madvise(mmap.MADV_NORMAL)


def _map_file(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    finally:
        os.close(fd)


def _with_dimension(sharding: jax.sharding.Sharding, rank: int) -> jax.sharding.Sharding:
    """For blocks, which have one dimension more than scales: it is never cut."""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return sharding
    spec = (*sharding.spec, *[None] * (rank + 1 - len(sharding.spec)))
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*spec))


ShardingOf: TypeAlias = jax.sharding.Sharding | Callable[[TensorInfo], jax.sharding.Sharding]
