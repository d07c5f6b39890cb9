"""Checkpoints to measure with: few and huge tensors, one to a file.

The bytes are random but repeat every 16 MiB: no codec takes longer over some values than over
others, except that random bits would give MXFP4 scales no model has.
"""

import json
import os
import struct
from pathlib import Path

MIB = 1 << 20
PATTERN = 16 * MIB
SMALL = 64 * MIB  # bytes of the small tensor's file: fits the default cache four times


def _pieces(pattern, nbytes):
    for start in range(0, nbytes, len(pattern)):
        yield memoryview(pattern)[:min(len(pattern), nbytes - start)]


def _write_shard(path, tensors, patterns):
    """`tensors`: (name, dtype, shape, nbytes) each; `patterns`: bytes by dtype or name."""
    header, offset = {}, 0
    for name, dtype, shape, nbytes in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, _, nbytes in tensors:
            pattern = patterns["scales" if name.endswith("_scales") else "any"]
            file.writelines(_pieces(pattern, nbytes))
        file.flush()
        os.fsync(file.fileno())  # only clean pages can be dropped


def _bf16(name, nbytes):
    """A BF16 tensor of that many bytes."""
    return [(name, "BF16", [nbytes // 2 // 4096, 4096], nbytes)]


def _mxfp4(name, elements):
    blocks = elements // 32
    shape = [32, blocks // 32 // 128, 128]
    return [(name + "_blocks", "U8", shape + [16], blocks * 16),
            (name + "_scales", "U8", shape, blocks)]


def write_checkpoint(folder, size):
    """Tensors whose files in the view have `size` bytes of data (a power of two):

    bf16_0, bf16_1        as float32
    bf16_whole            as bfloat16
    mxfp4, mxfp4_whole    as float32, as bfloat16
    small                 64 MiB as float32

    Returns {tensor: path of its source file}."""
    shards = {
        "bf16_0": _bf16("bf16_0", size // 2),
        "bf16_1": _bf16("bf16_1", size // 2),
        "bf16_whole": _bf16("bf16_whole", size),
        "mxfp4": _mxfp4("mxfp4", size // 4),
        "mxfp4_whole": _mxfp4("mxfp4_whole", size // 2),
        "small": _bf16("small", SMALL // 2),
    }
    scale = os.urandom(PATTERN).translate(bytes(115 + code % 13 for code in range(256)))
    patterns = {"any": os.urandom(PATTERN), "scales": scale}
    paths, where = {}, {}
    for number, (tensor, parts) in enumerate(shards.items()):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        paths[tensor] = Path(folder) / name
        _write_shard(paths[tensor], parts, patterns)
        where.update({part[0]: name for part in parts})
    index = {"metadata": {}, "weight_map": where}
    (Path(folder) / "model.safetensors.index.json").write_text(json.dumps(index))
    return paths


def bytes_needed(size):
    """On disk, for that size: see write_checkpoint()."""
    return size * 5 // 2 + SMALL
