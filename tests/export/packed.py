"""A second reader of packed files, and a writer for tests, made from man/tensorport-pack.5: plain
Python, numpy for the bits, and liblz4 and libxxhash, which are not ours.

It shares nothing with TensorPort.
"""

import ctypes
import ctypes.util
import struct
from dataclasses import dataclass, field

import numpy as np

MAGIC = bytes.fromhex("8954504b0d0a1a0a")
HEADER = struct.Struct("<8sIIQQQQQQQQ")  # up to and with the checksum of itself
assert HEADER.size == 80
SUFFIX = ".tpk"


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


LZ4 = ctypes.CDLL(ctypes.util.find_library("lz4"))
XXH = ctypes.CDLL(ctypes.util.find_library("xxhash"))
XXH.XXH3_64bits.restype = ctypes.c_uint64
XXH.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
XXH.XXH3_128bits.restype = Hash128
XXH.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def checksum(data):
    return XXH.XXH3_64bits(bytes(data), len(data))


def hash_128(data):
    """(low half, high half)"""
    found = XXH.XXH3_128bits(bytes(data), len(data))
    return found.low, found.high


def lz4_unpack(data, length):
    room = ctypes.create_string_buffer(length)
    assert LZ4.LZ4_decompress_safe(bytes(data), room, len(data), length) == length, "bad LZ4 block"
    return room.raw


def lz4_pack(data):
    room = ctypes.create_string_buffer(LZ4.LZ4_compressBound(len(data)))
    length = LZ4.LZ4_compress_default(bytes(data), room, len(data), len(room))
    return room.raw[:length]


def whole_elements(length, width):
    return length // width // 8 * 8 if width else 0


def shuffle(data, width):
    n = whole_elements(len(data), width)
    elements = np.frombuffer(data, np.uint8, n * width).reshape(n, width, 1)
    bits = np.unpackbits(elements, axis=2, bitorder="little")  # [element, byte, bit]
    rows = np.packbits(bits.transpose(1, 2, 0), axis=2, bitorder="little")
    return rows.tobytes() + data[n * width:]


def unshuffle(data, width):
    n = whole_elements(len(data), width)
    if n == 0:
        return data
    rows = np.frombuffer(data, np.uint8, n * width).reshape(width, 8, n // 8)
    bits = np.unpackbits(rows, axis=2, bitorder="little")  # [byte, bit, element]
    elements = np.packbits(bits.transpose(2, 0, 1), axis=2, bitorder="little")
    return elements.tobytes() + data[n * width:]


@dataclass
class Packed:
    """A packed file in its parts; any of them may be changed before it is put together again."""
    block_size: int
    original_size: int
    original_hash: tuple
    regions: list  # (length, width)
    checksums: list
    blocks: list   # stored bytes
    version: int = 1
    overrides: dict = field(default_factory=dict)  # of header fields: whatever a forger writes

    @classmethod
    def parse(cls, data):
        (magic, version, block_size, size, low, high, table_at, n_regions, n_blocks, table_sum,
         header_sum) = HEADER.unpack_from(data)
        assert (magic, version) == (MAGIC, 1) and header_sum == checksum(data[:72])
        table = data[table_at:]
        assert len(table) == 16 * n_regions + 12 * n_blocks and checksum(table) == table_sum
        regions = []
        for i in range(n_regions):
            length, width, zero = struct.unpack_from("<QII", table, 16 * i)
            assert length > 0 and width in (0, 1, 2, 4, 8) and zero == 0
            regions.append((length, width))
        assert sum(length for length, _ in regions) == size
        sums = struct.unpack_from(f"<{n_blocks}Q", table, 16 * n_regions)
        lengths = struct.unpack_from(f"<{n_blocks}I", table, 16 * n_regions + 8 * n_blocks)
        ends = np.cumsum([HEADER.size, *lengths])
        assert ends[-1] == table_at
        blocks = [data[start:end] for start, end in zip(ends, ends[1:])]
        return cls(block_size, size, (low, high), regions, list(sums), blocks)

    def places(self):
        """(start, length, width) of each block in the original."""
        start = 0
        for length, width in self.regions:
            for at in range(0, length, self.block_size):
                yield start + at, min(self.block_size, length - at), width
            start += length

    def original(self):
        out = []
        for (_, length, width), stored, expected in zip(self.places(), self.blocks, self.checksums,
                                                        strict=True):
            data = stored
            assert len(stored) <= length
            if len(stored) < length:
                data = unshuffle(lz4_unpack(stored, length), width)
            assert checksum(data) == expected
            out.append(data)
        data = b"".join(out)
        assert len(data) == self.original_size and hash_128(data) == self.original_hash
        return data

    def bytes(self):
        """The file, with checksums of table and header that are right for what is in them."""
        table = b"".join(struct.pack("<QII", length, width, self.overrides.get("zero", 0))
                         for length, width in self.regions)
        table += struct.pack(f"<{len(self.checksums)}Q", *self.checksums)
        lengths = self.overrides.get("lengths") or [len(block) for block in self.blocks]
        table += struct.pack(f"<{len(lengths)}I", *lengths)
        body = b"".join(self.blocks)
        get = self.overrides.get
        header = struct.pack(
            "<8sIIQQQQQQQ", MAGIC, self.version, self.block_size,
            get("original_size", self.original_size), *self.original_hash,
            get("table_offset", HEADER.size + len(body)), get("n_regions", len(self.regions)),
            get("n_blocks", len(self.checksums)), checksum(table))
        return header + struct.pack("<Q", checksum(header)) + body + table


def pack(data, block_size, regions):
    """A packed file by somebody else: other blocks, other regions."""
    packed = Packed(block_size, len(data), hash_128(data), regions, [], [])
    for start, length, width in packed.places():
        block = data[start:start + length]
        stored = lz4_pack(shuffle(block, width) if width else block)
        packed.blocks.append(stored if len(stored) < length else block)
        packed.checksums.append(checksum(block))
    return packed
