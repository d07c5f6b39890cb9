"""Part of an array, read from its file by the bytes that are in it, and no others."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np

__all__ = ["read_region"]


def _read(fd: int, target: memoryview, offset: int) -> None:
    """Fills `target` from `offset` on."""
    while target:
        n = os.preadv(fd, [target], offset)
        if n == 0:
            raise EOFError(f"expected {len(target)} bytes more at {offset}, found the end of the file")
        target, offset = target[n:], offset + n


def _runs(shape: tuple[int, ...], bounds: list[tuple[int, int]]) -> tuple[int, Iterator[int]]:
    """The region as runs of neighbouring elements, as few as there can be: their length, and where
    each begins."""
    cut = max((i for i, (begin, end) in enumerate(bounds) if (begin, end) != (0, shape[i])), default=0)
    strides = [math.prod(shape[i + 1:]) for i in range(len(shape))]
    inner = (bounds[cut][1] - bounds[cut][0]) * strides[cut]
    outer = [range(begin * strides[i], end * strides[i], strides[i]) for i, (begin, end) in enumerate(bounds[:cut])]
    first = bounds[cut][0] * strides[cut]

    def starts(i: int, at: int) -> Iterator[int]:
        if i == len(outer):
            yield at
            return
        for step in outer[i]:
            yield from starts(i + 1, at + step)

    return inner, starts(0, first)


def read_region(fd: int, offset: int, shape: tuple[int, ...], dtype: np.dtype, index: tuple[slice, ...]) -> np.ndarray:
    """array[index], where the array [shape] begins at `offset` of the file, row major."""
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    out = np.empty([max(0, end - begin) for begin, end in bounds], dtype)
    if out.size == 0:
        return out
    target = out.reshape(-1).view(np.uint8).data
    if not shape:
        _read(fd, target, offset)
        return out
    length, starts = _runs(shape, bounds)
    size = length * dtype.itemsize
    for i, start in enumerate(starts):
        _read(fd, target[i * size:(i + 1) * size], offset + start * dtype.itemsize)
    return out
