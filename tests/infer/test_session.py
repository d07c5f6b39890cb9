"""Sessions in files: what goes on after loading has the same bits, numpy finds in the file what its
description says, and what is damaged or belongs to something else is refused in a line."""

import os
import struct
import subprocess

import numpy as np
from support import BUILD, checkpoint, convert, main, scratch, test

PROGRAM = BUILD / "tests/infer/session-file"
HEADER = struct.Struct("<8sII16sQQQQ")


def session_file(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, timeout=300, check=False)


def must(*arguments):
    done = session_file(*arguments)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return done.stdout


def refused(*arguments, says=()):
    done = session_file(*arguments)
    text = done.stderr.decode()
    assert done.returncode == 1 and text.count("\n") == 1, done
    for part in says:
        assert part in text, f"expected {part!r} in: {text}"


def packed(name, folder):
    return convert(checkpoint(name), folder / name, "--precision", "source", "--mxfp4", "packed")


@test
def what_is_loaded_goes_on_with_the_same_bits():
    """Around windows, in and beyond the rings' sizes, which depend on the step."""
    with scratch() as folder:
        for name, lengths in (("tiny", (1, 127, 128, 129, 300)), ("mistral", (63, 64, 65, 200)), ("llama", (150,))):
            view = packed(name, folder)
            for i, n in enumerate(lengths):
                kind, step = ("f32", "bf16")[i % 2], (1, 16, 512)[i % 3]
                file = folder / "session"
                expected = must("save", view, file, n, kind, step)
                assert len(expected) > 0
                for context, other in ((n + 40, step), (n + 40, 3), (2000, 64)):
                    found = must("load", view, file, context, kind, other)
                    assert found == expected, f"{name}: {n} tokens, {kind}, step {step}, then {other}"
                assert os.stat(file).st_mode & 0o777 == 0o600
            assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["session"]


def parse(path, heads, size, windows):
    """The file as its description says: header, tokens, first positions, layers, note."""
    data = path.read_bytes()
    magic, version, width, model, n, m, layers, _ = HEADER.unpack_from(data)
    assert (magic, version, layers) == (b"\x89TPSESS\n", 1, len(windows)), (magic, version, layers)
    at = HEADER.size
    tokens = np.frombuffer(data, "<u4", n, at)
    firsts = np.frombuffer(data, "<u8", layers, at + 4 * n)
    at += 4 * n + 8 * layers
    out = []
    for first in firsts:
        shape = (n - int(first), 2, heads, size)
        count = int(np.prod(shape))
        out.append(np.frombuffer(data, {4: "<f4", 2: "<u2"}[width], count, at).reshape(shape))
        at += count * width
    assert at + m + 16 == len(data)
    return model, tokens, firsts, out, data[at:at + m]


@test
def numpy_reads_the_file():
    with scratch() as folder:
        view = packed("tiny", folder)
        windows = [128, 0, 128, 0]
        files = {}
        for kind in ("f32", "bf16"):
            must("save", view, folder / kind, 300, kind, 16)
            files[kind] = parse(folder / kind, 2, 64, windows)
        model, tokens, firsts, layers, note = files["f32"]
        assert note == b"a note \0 with anything\0"
        assert (tokens == [(i * 2654435761 % 2**64 >> 7) % 1088 for i in range(300)]).all()
        assert firsts.tolist() == [300 - 144, 0, 300 - 144, 0]  # the window and a step
        assert all(np.isfinite(layer).all() and (layer != 0).mean() > 0.99 for layer in layers)
        # The second layer's keys and values come from a text computed with the first's rounded: only
        # the first one's are the same numbers, rounded to nearest even.
        bits = layers[0].view("<u4").astype(np.uint64)
        rounded = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        assert (rounded == files["bf16"][3][0]).all()
        assert files["bf16"][0] == model


@test
def damage_is_refused():
    with scratch() as folder:
        view = packed("tiny", folder)
        must("save", view, folder / "session", 140, "bf16", 1)
        must("damage", view, folder / "session", folder / "scratch", "bf16", 1)


@test
def other_models_and_types_are_refused():
    with scratch() as folder:
        view, file = packed("tiny", folder), folder / "session"
        must("save", view, file, 60, "f32", 16)
        refused("load", packed("llama", folder), file, 200, "f32", 16, says=["another model", str(file)])
        refused("load", view, file, 200, "bf16", 16, says=["--kv-type f32"])
        refused("load", view, file, 59, "f32", 16, says=["60 tokens", "room for 59", "--context"])
        refused("load", view, folder / "none", 200, "f32", 16, says=["No such file"])
        refused("load", view, folder, 200, "f32", 16, says=["regular file"])
        os.mkfifo(folder / "fifo")
        refused("load", view, folder / "fifo", 200, "f32", 16, says=["regular file"])
        refused("load", view, view / "config.json", 200, "f32", 16, says=["session that tpinfer saved"])
        (folder / "empty").touch()
        refused("load", view, folder / "empty", 200, "f32", 16, says=["session that tpinfer saved"])
        refused("save", view, folder / "none" / "x", 5, "f32", 16, says=["cannot write"])
        refused("save", view, folder, 5, "f32", 16, says=["cannot write"])
        assert not [path for path in folder.parent.iterdir() if path.name.startswith(f"{folder.name}.")]


@test
def the_same_values_are_the_same_model_and_others_are_not():
    """Whatever type a view has them in; and a single matrix of numbers slightly changed is another."""
    with scratch() as folder:
        view, file = packed("tiny", folder), folder / "session"
        expected = must("save", view, file, 60, "f32", 16)
        for precision in ("float32", "bfloat16"):
            copy = convert(checkpoint("tiny"), folder / precision, "--precision", precision)
            assert must("load", copy, file, 200, "f32", 16) == expected
        path, = (folder / "float32").glob("shard_*/model_layers_2_self_attn_v_proj_weight.npy")
        array = np.load(path)
        np.save(path, array * np.float32(1.01))
        refused("load", folder / "float32", file, 200, "f32", 16, says=["another model"])
        np.save(path, array)
        assert must("load", folder / "float32", file, 200, "f32", 16) == expected
        config = (folder / "float32" / "config.json").read_text()
        assert '"rope_theta": 150000' in config
        (folder / "float32" / "config.json").write_text(config.replace('"rope_theta": 150000', '"rope_theta": 150001'))
        refused("load", folder / "float32", file, 200, "f32", 16, says=["another model"])


main()
