#!/usr/bin/env python3
"""Compares our verdict on safetensors files with the official library's.

Files are made by hand and at random (fixed seed), judged by both, and where both accept,
what they found is compared too: names, dtypes, shapes and the bytes of every tensor. We
refuse on purpose, and only then: a name that appears twice, and dtypes we cannot decode.

    differential_safetensors.py [CASES [SEED]]     CASES per group, 4000 unless told

Prints TAP. Needs safetensors; finds tests/unit/safetensors-verdict in TP_TEST_BUILDDIR.
"""

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
NOT_DECODED = ["F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]
DATA = bytes(random.Random(0).randbytes(4096))

FOUR = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'
ODD_NUMBERS = """0 -0 1 2 -1 01 00 1.0 2.0 1e0 1E0 1e+0 1e-0 .5 5. 1e 1e+ - + +1 --1 0x1 1_0 NaN Infinity
    4294967296 9223372036854775807 9223372036854775808 18446744073709551615 18446744073709551616
    -9223372036854775808 -9223372036854775809 99999999999999999999999999 1e308 1e309 -1e309 1e400
    1.7976931348623157e308 1.7976931348623158e308 17976931348623157000e289 18446744073709551615e288
    18446744073709551615e289 0e400 0.0e9999999999999999 1e-400 1e99999999999 1e-99999999999""".split()
ODD_STRINGS = [
    '""', '"\\u0000"', '"a\\u0000b"', '"\\/"', '"\\x"', '"\\U0041"', '"\\u12"', '"\\u12g4"', '"\\uFfFf"',
    '"\\ud83d\\ude00"', '"\\ude00\\ud83d"', '"\\ud83d"', '"\\ud83d\\ud83d"', '"\\ud83d\\u0041"', '"\\ude00"',
    '"\\ud83dx"', '"\x00"', '"\x01"', '"\t"', '"\n"', '"\x1f"', '"\x7f"', '"é"', '"\uffff"', '"😀"', '"', "'a'",
    '"__metadata__"', '"__metadat\\u0061__"', '"dtype"', '"dt\\u0079pe"', '"shape"', '"F\\u0033\\u0032"',
]  # fmt: skip
ODD_VALUES = [
    "null", "true", "false", "nul", "True", "truex", "[]", "{}", "[null]", '{"F32":null}', '{"F32":1}', '{"F32":{}}',
    '{"F32":[]}', '{"F33":null}', '{"F32":null,"F32":null}', '{"F32":null,"F16":null}', '["F32"]', '["F32",[1],[0,4]]',
    '["F32",[1]]', '["F32",[1],[0,4],1]', '["F32",[1],[0,4],[0,4]]', '["F32",[0]]', "[" * 124 + "]" * 124, "[" * 125 + "]" * 125, "[" * 126 + "]" * 126,
    '{"":' * 125 + "1" + "}" * 125, '{"":' * 126 + "1" + "}" * 126, "[,]", "[1,]", '{"a":1,}', "{,}", "{1:1}", "",
    "[[],[]]", "1" * 309, "1" * 310, "1" * 400 + "e-300", "0." + "0" * 200 + "1e400", "/**/1", "1//",
] + [f'"{name}"' for name in [*WIDTHS, *NOT_DECODED, "f32", "F33", "C128", "PackedU4"]]  # fmt: skip
ODD_SPACE = [" ", "\n", "\t", "\r", "\v", "\f", "\0", "\u00a0", "\ufeff", "\u2028", ",", ":", "]", "}", "[", "{"]


def file_of(header, data=b"", length=None):
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def hand_made():
    for text in ["", " ", "null", "[]", "{}", "{}\n\t\r ", "\t\r\n {}", "\ufeff{}", "{}{}", "{} x", "{:1}", "{1:1}"]:
        yield file_of(text)
    for space in ODD_SPACE:
        yield file_of("{}" + space)
        yield file_of(space + '{"a":{' + FOUR + "}}", DATA[:4])
    for value in ODD_NUMBERS + ODD_STRINGS + ODD_VALUES:
        yield file_of('{"__metadata__":%s}' % value)
        yield file_of('{"__metadata__":{"k":%s}}' % value)
        yield file_of('{"a":%s}' % value, DATA[:4])
        yield file_of('{%s:{%s}}' % (value, FOUR), DATA[:4])
        yield file_of('{"a":{%s,"x":%s}}' % (FOUR, value), DATA[:4])
        yield file_of('{"a":{%s,%s:1}}' % (FOUR, value), DATA[:4])
        yield file_of('{"a":{"dtype":%s,"shape":[8],"data_offsets":[0,8]}}' % value, DATA[:8])
        yield file_of('{"a":{"dtype":"F32","shape":%s,"data_offsets":[0,4]}}' % value, DATA[:4])
        yield file_of('{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % value, DATA[:4])
        yield file_of('{"a":{"dtype":"F32","shape":[0,%s],"data_offsets":[0,0]}}' % value)
        yield file_of('{"a":{"dtype":"F32","shape":[%s,0],"data_offsets":[0,0]}}' % value)
        yield file_of('{"a":{"dtype":"F32","shape":[%s,2,0],"data_offsets":[0,0]}}' % value)
        yield file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,%s]}}' % value, DATA[:1])
        yield file_of('{"a":{"dtype":"U8","shape":[0],"data_offsets":[%s,%s]}}' % (value, value))
        yield file_of('{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,%s]}}' % (value, value), DATA[:2])
    for other in ["{}", "null", '{"a":"b"}']:
        yield file_of('{"__metadata__":%s,"__metadata__":{}}' % other)
    for key in ["dtype", "shape", "data_offsets", "x"]:
        yield file_of('{"a":{%s,"%s":0,"%s":0}}' % (FOUR, key, key), DATA[:4])
    whole = file_of('{"a":{%s}}' % FOUR, DATA[:4])
    for n in range(len(whole) + 1):
        yield whole[:n]
        yield whole[:n] + b"\xff" + whole[n:]
        yield whole[:n] + b" " + whole[n:]
    for length in [0, 1, 57, 58, 59, 60, 100_000_000, 100_000_001, 2**31, 2**32, 2**63, 2**64 - 8, 2**64 - 1]:
        yield struct.pack("<Q", length) + whole[8:]


class Maker:
    """Random headers: valid ones, and what can be made of them."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def space(self):
        return self.random.choice(["", "", "", "", " ", "\n", "\t\r "])

    def name(self):
        letters = [*"ab./_", "é", "😀", "\0", "\n", '"', "\\", "\x7f", "__metadata__", "layers.0."]
        return "".join(self.random.choices(letters, k=self.random.randint(0, 4)))

    def string(self, text):
        if self.random.random() < 0.5:
            return json.dumps(text, ensure_ascii=self.random.random() < 0.5)
        units = text.encode("utf-16-be")
        return '"' + "".join("\\u%02x%02X" % (units[i], units[i + 1]) for i in range(0, len(units), 2)) + '"'

    def value(self, depth=0):
        kind = self.random.randrange(8 if depth < 3 else 5)
        if kind == 0:
            return self.random.choice(["null", "true", "false"])
        if kind == 1:
            return self.string(self.name())
        if kind < 5:
            return self.random.choice(["0", "-0", "-1", "1.5", "1e300", "2E-5", "-12.5e+3", "18446744073709551616"])
        values = [self.value(depth + 1) for _ in range(self.random.randrange(3))]
        if kind == 5:
            return "[" + ",".join(values) + "]"
        return "{" + ",".join(f"{self.string(self.name())}:{v}" for v in values) + "}"

    def shape(self):
        if self.random.random() < 0.15:
            huge = [self.random.choice([2**64 - 1, 2**63, 2**32, 7]), 0]
            self.random.shuffle(huge)
            return huge
        return [self.random.choice([0, 1, 1, 2, 3, 5]) for _ in range(self.random.randrange(4))]

    def tensors(self):
        """Entries [name, fields] that cover the data, and its size."""
        entries, at = [], 0
        for _ in range(self.random.randrange(5)):
            dtype, shape = self.random.choice(list(WIDTHS)), self.shape()
            size = WIDTHS[dtype]
            for dimension in shape:
                size *= dimension
            fields = [["dtype", self.string(dtype)], ["shape", shape], ["data_offsets", [at, at + size]]]
            entries.append([self.name(), fields])
            at += size
        return entries, at

    def entry(self, fields):
        text = [f"{self.string(key)}{self.space()}:{self.space()}{value}" for key, value in fields]
        if len(fields) == 3 and self.random.random() < 0.05:
            return "[" + ",".join(str(value) for _, value in fields) + "]"
        if self.random.random() < 0.2:
            text.append(f"{self.string(self.name())}:{self.value()}")
        if self.random.random() < 0.5:
            self.random.shuffle(text)
        return "{" + self.space() + f",{self.space()}".join(text) + self.space() + "}"

    def header(self, entries):
        text = [f"{self.string(name)}:{self.entry(fields)}" for name, fields in entries]
        if self.random.random() < 0.2:
            text.append('"__metadata__":' + self.random.choice(["null", "{}", '{"k":"v"}', '{"k":"v","k":"w"}']))
        self.random.shuffle(text)
        return self.space() + "{" + f"{self.space()},".join(text) + "}" + self.space()

    def spoil(self, entries):
        """Changes one meaning: an offset, a dimension, a field."""
        if not entries:
            return
        fields = self.random.choice(entries)[1]
        kind = self.random.randrange(6)
        step = self.random.choice([-8, -4, -2, -1, 1, 2, 4, 8])
        if kind == 0:
            fields[2][1][self.random.randrange(2)] += step
        elif kind == 1:
            fields[2][1] = [offset + step for offset in fields[2][1]]
        elif kind == 2 and fields[1][1]:
            fields[1][1][self.random.randrange(len(fields[1][1]))] += step
        elif kind == 3:
            fields[0][1] = self.string(self.random.choice([*WIDTHS, *NOT_DECODED]))
        elif kind == 4:
            del fields[self.random.randrange(3)]
        else:
            fields.append(self.random.choice(fields))

    def meanings(self):
        entries, size = self.tensors()
        if self.random.random() < 0.6:
            self.spoil(entries)
        if self.random.random() < 0.1:
            size += self.random.choice([-1, 1])
        return file_of(self.header(entries), DATA[: max(size, 0)])

    def tokens(self):
        entries, size = self.tensors()
        text = self.header(entries)
        for _ in range(self.random.choice([0, 1, 1, 1, 2])):
            odd = self.random.choice(self.random.choice([ODD_NUMBERS, ODD_STRINGS, ODD_VALUES, ODD_SPACE]))
            at = self.random.randrange(len(text) + 1)
            end = at
            while self.random.random() < 0.7 and end < len(text) and text[end] not in "{}[],:":
                end += 1
            text = text[:at] + odd + text[end:]
        return file_of(text, DATA[:size])

    def bytes(self):
        entries, size = self.tensors()
        text = bytearray(self.header(entries).encode())
        for _ in range(self.random.choice([0, 1, 1, 2, 3])):
            at = self.random.randrange(len(text) + 1)
            kind = self.random.randrange(4)
            if kind == 0:
                text[at:at] = self.random.choice([self.random.randbytes(1), b'"', b"\\", b",", b"0", b"\xed\xa0\x80"])
            elif kind == 1:
                del text[at : at + self.random.randint(1, 3)]
            elif at < len(text):
                text[at] = self.random.choice([text[at] ^ 1 << self.random.randrange(8), *b'{}[]",:0-e.'])
        data = file_of(bytes(text), DATA[:size])
        if self.random.random() < 0.1:
            at = self.random.randrange(8)
            data = data[:at] + self.random.randbytes(1) + data[at + 1 :]
        return data


def is_refused_on_purpose(data):
    """True for a file, accepted by the official library, whose header we refuse."""
    length = struct.unpack_from("<Q", data)[0]
    # Numbers stay text, so that Python's limit on their digits does not matter.
    pairs = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=list, parse_int=str, parse_float=str)
    names = [name for name, _ in pairs if name != "__metadata__"]
    dtypes = [json.dumps(value) for name, value in pairs if name != "__metadata__"]
    return len(names) != len(set(names)) or any(f'"{dtype}"' in text for dtype in NOT_DECODED for text in dtypes)


def official_verdict(safetensors, data):
    """What the official library finds, by name; a string when it refuses."""
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        return str(error)
    return {name: (info["dtype"], list(info["shape"]), bytes(info["data"])) for name, info in found}


def our_verdict(line, data):
    """The same from a line of safetensors-verdict."""
    word, *rest = line.split(" ")
    if word != "OK":
        return line
    found = {}
    body = data[8 + struct.unpack_from("<Q", data)[0] :]
    for name, dtype, shape, begin, end in (entry.split(":") for entry in rest):
        dimensions = [int(dimension) for dimension in shape.split(",") if dimension]
        found[bytes.fromhex(name).decode()] = (dtype, dimensions, body[int(begin) : int(end)])
    return found


def our_lines(program, files):
    """Asks for all files at once."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{i}" for i in range(len(files))]
        for path, data in zip(paths, files):
            Path(path).write_bytes(data)
        done = subprocess.run([program], input="\n".join(paths).encode(), stdout=subprocess.PIPE, check=True)
    lines = done.stdout.decode("utf-8", "replace").removesuffix("\n").split("\n")
    if len(lines) != len(files):
        raise RuntimeError(f"expected {len(files)} verdicts, found {len(lines)}")
    return lines


def compare(safetensors, program, files):
    """Returns the disagreements, and how many files both accept."""
    disagreements, n_accepted = [], 0
    for data, line in zip(files, our_lines(program, files)):
        official, ours = official_verdict(safetensors, data), our_verdict(line, data)
        if isinstance(official, str) and isinstance(ours, str):
            continue
        if official == ours:
            n_accepted += 1
        elif isinstance(official, str) or not isinstance(ours, str) or not is_refused_on_purpose(data):
            disagreements.append((data, official, ours))
    return disagreements, n_accepted


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    try:
        import safetensors
    except ImportError as error:
        print(f"1..1\nnot ok 1 - Python has safetensors # {error}: see tests/requirements.txt")
        return 1
    program = os.path.join(os.environ.get("TP_TEST_BUILDDIR", "."), "tests/unit/safetensors-verdict")
    maker = Maker(seed)
    groups = {
        "hand-made files": list(hand_made()),
        "headers with one meaning changed": [maker.meanings() for _ in range(n)],
        "headers with odd tokens": [maker.tokens() for _ in range(n)],
        "headers with changed bytes": [maker.bytes() for _ in range(n)],
    }
    failed = False
    print(f"# safetensors {safetensors.__version__}, seed {seed}\n1..{len(groups)}")
    for number, (what, files) in enumerate(groups.items(), 1):
        disagreements, n_accepted = compare(safetensors, program, files)
        # Verdicts that are all alike would prove nothing.
        ok = not disagreements and len(files) // 20 < n_accepted < len(files) * 19 // 20
        print(f"{'ok' if ok else 'not ok'} {number} - {what}: same verdicts")
        print(f"#   {len(files)} files, {n_accepted} accepted, {len(disagreements)} disagreements")
        for data, official, ours in disagreements[:10]:
            print(f"#   {data[:400]!r}\n#     official: {str(official)[:200]!r}\n#     ours: {str(ours)[:200]!r}")
        failed = failed or not ok
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
