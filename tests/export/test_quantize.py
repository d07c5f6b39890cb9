"""`tensorport convert --quantize mxfp4` against numpy: what is written, what the mount shows of it, what
tpinfer makes of it, and what is wrong with what users ask."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess

import ml_dtypes
import numpy as np
from support import BUILD, PROGRAM, Mount, checkpoint, main, must, refused, scratch, tensorport, test

from formats import containers, read
from generate import write_file, write_shards
from reference import DTYPES, reference

QUANTIZE = ("--quantize", "mxfp4")
TINY, LLAMA = checkpoint("tiny"), checkpoint("llama")
EXPERTS = ("gate_up_proj", "down_proj")
LINEAR = [f"self_attn.{name}_proj.weight" for name in "qkvo"] + \
         [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
VALUES = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], "f4")
BF16 = np.dtype(ml_dtypes.bfloat16)


# ---------------------------------------------------------------- the reference

def quantize(values):
    """The OCP MX formula for [..., K]: codes two to a byte [..., K/32, 16], and scales [..., K/32]."""
    blocks = np.asarray(values, "f4").reshape(*values.shape[:-1], -1, 32)
    largest = np.abs(blocks).max(-1)
    exponent = np.where(largest > 0, np.frexp(largest)[1] - 1 - 2, -127).clip(-127)
    units = np.abs(np.ldexp(blocks, -exponent[..., None]))
    step = np.where(units < 2, 0.5, np.where(units < 4, 1.0, 2.0))
    rounded = np.minimum(np.rint(units / step) * step, 6)  # to even, which is the even code at each step
    codes = np.searchsorted(VALUES[:8], rounded) + 8 * np.signbit(blocks)
    return ((codes[..., ::2] + 16 * codes[..., 1::2]).astype("u1"), (exponent + 127).astype("u1"))


def dequantize(blocks, scales):
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*scales.shape, 32)
    values = np.ldexp(VALUES[codes], scales[..., None].astype(int) - 127)
    return values.reshape(*scales.shape[:-1], -1).astype("f4")


def losses(values, decoded):
    values, decoded = np.asarray(values, "f8"), np.asarray(decoded, "f8")
    noise, error = np.square(values - decoded).sum(), np.abs(values - decoded).max()
    return {"snr_db": 10 * math.log10(np.square(values).sum() / noise) if noise else None,
            "largest": np.abs(values).max(), "max_error": error,
            "relative_error": error / np.abs(values).max()}


def check_quantized(tensors, name, values, turned=False):
    """That NAME_blocks and NAME_scales are what numpy makes of the values; what they decode to."""
    values = np.swapaxes(values, -1, -2) if turned else values
    blocks, scales = quantize(values)
    for found, expected in ((tensors[name + "_blocks"], blocks), (tensors[name + "_scales"], scales)):
        assert found.dtype == np.uint8 and found.shape == expected.shape, (name, found.shape, expected.shape)
        assert np.array_equal(found, expected), f"{name}: {np.argwhere(found != expected)[:3]}"
    assert name not in tensors
    return dequantize(blocks, scales)


def weights(folder):
    return read(folder, "safetensors")


def stored(folder):
    """{name: tensor} as an independent reader finds them."""
    return reference(folder).stored


def quietly(*arguments, **how):
    """For what warns, as it should, that transformers does not load the result."""
    done = tensorport("convert", *arguments, **how)
    assert done.returncode == 0 and done.stderr.count("\n") == done.stderr.count("GPT-OSS only"), done
    return done.stdout


def plain_experts(folder):
    """The tiny GPT-OSS as transformers saves it without MXFP4: experts [expert, in, out] in bfloat16."""
    must("convert", TINY, folder, "--format", "safetensors", "-q")
    return folder


def normal(shape, dtype, seed=0, scale=0.02):
    array = (np.random.default_rng(seed).standard_normal(shape) * scale).astype(DTYPES[dtype])
    return dtype, shape, array.tobytes()


def array_of(tensor):
    return np.frombuffer(tensor[2], DTYPES[tensor[0]]).reshape(tensor[1])


def model(folder, tensors, **config):
    folder.mkdir(parents=True)
    write_file(folder / "model.safetensors", tensors)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


# ---------------------------------------------------------------- what is written

@test
def experts_of_gpt_oss_get_the_published_layout():
    with scratch() as room:
        must("convert", plain_experts(room / "plain"), room / "out", *QUANTIZE, "-q")
        plain, out, published = weights(room / "plain"), weights(room / "out"), stored(TINY)
        assert out.keys() == published.keys()
        same = total = 0
        for name, tensor in published.items():
            assert out[name].shape == tuple(tensor.shape) and out[name].tobytes() == tensor.bytes() \
                or name.endswith(("_blocks", "_scales")), name
        for layer in range(4):
            for expert in EXPERTS:
                name = f"model.layers.{layer}.mlp.experts.{expert}"
                decoded = check_quantized(out, name, plain[name], turned=True)
                blocks, scales = published[name + "_blocks"].array(), published[name + "_scales"].array()
                assert np.array_equal(decoded, dequantize(blocks, scales)), "what MXFP4 holds is kept"
                canonical = (((blocks & 7) >= 6) | ((blocks >> 4 & 7) >= 6)).any(-1)
                same += (out[name + "_blocks"] == blocks)[canonical].sum()
                total += canonical.sum() * 16
        assert same == total > 0, "canonical blocks come back"
        config = json.loads((room / "out/config.json").read_text())["quantization_config"]
        assert config["quant_method"] == "mxfp4"
        of_published = json.loads((TINY / "config.json").read_text())["quantization_config"]
        assert sorted(config["modules_to_not_convert"]) == sorted(of_published["modules_to_not_convert"])


@test
def quantising_what_was_quantised_gives_the_same_bytes():
    with scratch() as room:
        for name, source in (("experts", plain_experts(room / "plain")), ("llama", LLAMA)):
            first, decoded, again = (room / f"{name}{i}" for i in range(3))
            quietly(source, first, *QUANTIZE, "-q")
            must("convert", first, decoded, "--format", "safetensors", "-q")
            stdout = quietly(decoded, again, *QUANTIZE)
            assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
            assert stdout.count("exact") == (9 if name == "experts" else 29)


@test
def linear_weights_of_llama_are_quantised_and_all_else_stays():
    with scratch() as room:
        quietly(LLAMA, room / "out", *QUANTIZE, "-q", "--report", room / "report.json")
        before = {name: tensor.array() for name, tensor in stored(LLAMA).items()}
        out = weights(room / "out")
        report = json.loads((room / "report.json").read_text())
        chosen = [name for name in before if name.endswith(tuple(LINEAR))]
        assert [tensor["name"] for tensor in report["tensors"]] == chosen and len(chosen) == 28
        decoded = {}
        for tensor in report["tensors"]:
            name = tensor["name"]
            decoded[name] = check_quantized(out, name, before[name])
            expected = losses(before[name], decoded[name])
            assert all(math.isclose(tensor[key], expected[key], rel_tol=1e-9) for key in expected), (tensor, expected)
            assert tensor["dtype"] == "BF16" and tensor["shape"] == list(before[name].shape)
        every = losses(np.concatenate([before[name].ravel().astype("f4") for name in chosen]),
                       np.concatenate([decoded[name].ravel() for name in chosen]))
        assert all(math.isclose(report["all"][key], every[key], rel_tol=1e-9) for key in every)
        for name in before.keys() - set(chosen):
            assert out[name].tobytes() == before[name].tobytes(), name
        with Mount(room / "out") as mount:
            shown = {tensor["name"]: np.load(mount.path / tensor["file"]) for tensor in mount.manifest()["tensors"]}
        assert shown.keys() == before.keys()
        assert all(np.array_equal(shown[name], decoded[name]) for name in chosen)


@test
def every_type_and_shape_is_quantised():
    """Stacks either way round, rows that no tile divides, several shards, many pieces."""
    tensors = {"a.experts.gate_up_proj": normal((3, 64, 50), "BF16", 1),   # [E, in, out]
               "b.experts.gate_up_proj": normal((3, 50, 64), "F16", 2),    # [E, out, in]
               "a.experts.down_proj": normal((3, 96, 64), "F32", 3),       # [E, in, out]
               "b.experts.down_proj": normal((3, 64, 96), "BF16", 4),      # [E, out, in]
               "f16.q_proj.weight": normal((7, 32), "F16", 5, 1e-6),       # subnormal numbers
               "f32.q_proj.weight": normal((1, 32 * 1000), "F32", 6, 1e-38),
               "large.q_proj.weight": normal((2000, 1600), "BF16", 7),
               "large.experts.down_proj": normal((2, 1600, 64), "BF16", 8),
               "four.q_proj.weight": normal((2, 3, 4, 64), "F32", 9, 1e30),
               "zero.q_proj.weight": ("BF16", (2, 32), bytes(2 * 2 * 32)),
               "norm.weight": normal((64,), "F32", 10)}
    with scratch() as room:
        names = list(tensors)
        source = write_shards(room / "in", [{name: tensors[name] for name in names[i::2]} for i in range(2)], padding=3)
        (source / "config.json").write_text('{"model_type": "other", "hidden_size": 64}')
        for shard_size in ("1.8", "0.0001"):
            out = room / shard_size
            quietly(source, out, *QUANTIZE, "-q", "--shard-size", shard_size)
            assert (len(containers(out, "safetensors")) > 1) == (shard_size != "1.8")
            found = weights(out)
            for name, tensor in tensors.items():
                if name == "norm.weight":
                    assert found[name].tobytes() == tensor[2]
                else:
                    turned = name in ("a.experts.gate_up_proj", "a.experts.down_proj", "large.experts.down_proj")
                    check_quantized(found, name, array_of(tensor), turned)


@test
def stacks_larger_than_a_piece_are_turned():
    """Pieces of the writer end in the middle of a matrix, and cross from one into the next."""
    shape = (2, 2880, 1500)
    bits = np.random.default_rng(11).integers(0, 1 << 16, shape, "u2")
    bits = (bits & 0x81ff | 0x3e00).astype("<u2")  # +-0.125 to 0.5, all fractions
    with scratch() as room:
        source = model(room / "in", {"a.experts.gate_up_proj": ("BF16", shape, bits.tobytes())}, model_type="gpt_oss")
        must("convert", source, room / "out", *QUANTIZE, "-q", "-w", "3", "--report", room / "report.json")
        values = bits.view(BF16).astype("f4")
        decoded = check_quantized(weights(room / "out"), "a.experts.gate_up_proj", values, turned=True)
        expected = losses(np.swapaxes(values, 1, 2), decoded)
        found = json.loads((room / "report.json").read_text())["tensors"][0]
        assert all(math.isclose(found[key], expected[key], rel_tol=1e-9) for key in expected), (found, expected)


@test
def any_range_can_be_made():
    """Ranges of any length, from anywhere in a block, a row and a matrix, are the file's bytes."""
    with scratch() as room:
        source = model(room / "in", {"a.experts.gate_up_proj": normal((3, 96, 70), "BF16", 1),
                                     "b.experts.gate_up_proj": normal((2, 70, 96), "F32", 2),
                                     "c.experts.down_proj": normal((2, 64, 33), "F16", 3)},
                       model_type="gpt_oss", hidden_size=96)
        must("convert", source, room / "out", *QUANTIZE, "-q")
        for piece in (7, 100, 5000):
            out = room / str(piece)
            out.mkdir()
            subprocess.run([BUILD / "tests/export/plan-dump", source, out, "mxfp4", str(piece), "0"], check=True)
            assert (out / "model.safetensors").read_bytes() == (room / "out/model.safetensors").read_bytes()


@test
def packed_checkpoints_and_single_files_are_quantised():
    with scratch() as room:
        must("pack", plain_experts(room / "plain"), room / "packed")
        must("convert", room / "plain", room / "out", *QUANTIZE, "-q")
        must("convert", room / "packed", room / "again", *QUANTIZE, "-q")
        assert (room / "again/model.safetensors").read_bytes() == (room / "out/model.safetensors").read_bytes()
        file = write_file(room / "one.safetensors", {"a.q_proj.weight": normal((3, 64), "F32")})
        quietly(file, room / "one", *QUANTIZE, "-q")
        check_quantized(weights(room / "one"), "a.q_proj.weight", array_of(normal((3, 64), "F32")))


@test
def nothing_depends_on_threads_or_instructions():
    with scratch() as room:
        source = model(room / "in", {"a.q_proj.weight": normal((3000, 640), "BF16"),
                                     "a.experts.down_proj": normal((2, 640, 999), "F16")},
                       model_type="gpt_oss", hidden_size=999)
        made = set()
        for isa in ("scalar", "avx2", "avx512"):
            for workers in (1, 3):
                out, report = room / f"{isa}{workers}", room / f"{isa}{workers}.json"
                quietly(source, out, *QUANTIZE, "--include", "*proj*", "-q", "-w", workers, "--report", report,
                        env={"TENSORPORT_ISA": isa})
                made.add(((out / "model.safetensors").read_bytes(), report.read_bytes()))
        assert len(made) == 1


@test
def patterns_say_what_is_quantised():
    with scratch() as room:
        quietly(LLAMA, room / "out", *QUANTIZE, "-q", "--include", "*.mlp.*", "--include", "lm_head.weight",
                "--exclude", "*.layers.0.*")
        out, names = weights(room / "out"), set(stored(LLAMA))
        chosen = {name for name in names if ".mlp." in name and ".layers.0." not in name} | {"lm_head.weight"}
        assert out.keys() == (names - chosen) | {name + part for name in chosen for part in ("_blocks", "_scales")}
        config = json.loads((room / "out/config.json").read_text())["quantization_config"]
        assert set(config["modules_to_not_convert"]) == \
            {"model.embed_tokens", "model.layers.*.self_attn"} | {f"model.layers.0.mlp.{name}_proj"
                                                                  for name in ("gate", "up", "down")}


@test
def what_is_mxfp4_already_is_kept():
    with scratch() as room:
        must("convert", TINY, room / "all", "--mxfp4", "packed", "--format", "safetensors", "-q")
        quietly(TINY, room / "out", *QUANTIZE, "-q", "--include", "*.self_attn.*_proj.weight")
        before, out = weights(room / "all"), weights(room / "out")
        for name, array in before.items():
            if "self_attn" in name and name.endswith("_proj.weight"):
                check_quantized(out, name, array)
            else:
                assert out[name].tobytes() == array.tobytes(), name
        refused("convert", TINY, room / "none", *QUANTIZE, says=["nothing to quantise"])


# ---------------------------------------------------------------- what others make of it

def tokens(folder):
    """What tpinfer generates, greedily, from the mounted model."""
    with Mount(folder) as mount:
        done = subprocess.run([BUILD / "tpinfer", "run", mount.path, "-p", "Once upon a time", "--raw", "-n", "24", "--temp",
                               "0", "--ignore-eos", "--json"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["tokens"]


@test
def tpinfer_runs_quantised_experts():
    with scratch() as room:
        must("convert", plain_experts(room / "plain"), room / "out", *QUANTIZE, "-q")
        found = tokens(room / "out")
        assert len(found) == 24 and found == tokens(TINY) == tokens(room / "plain")


@test
def tpinfer_runs_quantised_dense_models():
    """As it runs what they decode to; of the embedding and the head, too."""
    with scratch() as room:
        for i, patterns in enumerate(([], ["--include", "*proj.weight", "--include", "lm_head*", "--include", "*embed*"])):
            out, decoded = room / f"out{i}", room / f"decoded{i}"
            quietly(LLAMA, out, *QUANTIZE, "-q", *patterns)
            must("convert", out, decoded, "--format", "safetensors", "-q")
            found = tokens(out)
            assert len(found) == 24 and found == tokens(decoded) != tokens(LLAMA)


@test
def verify_knows_what_was_quantised():
    with scratch() as room:
        quietly(LLAMA, room / "out", *QUANTIZE, "-q")
        assert "all is right" in must("verify", room / "out")
        refused("verify", room / "out", "--source", LLAMA, says=["was quantised", "convert --resume"])
        file = room / "out/model.safetensors"
        with open(file, "r+b") as stream:
            stream.seek(-1000, os.SEEK_END)
            stream.write(b"!")
        done = tensorport("verify", room / "out")
        assert done.returncode == 1 and "model.safetensors" in done.stderr
        stdout = quietly(LLAMA, room / "out", *QUANTIZE, "--resume")
        assert "1 were not and were made again" in stdout
        assert "all is right" in must("verify", room / "out")
        manifest = json.loads((room / "out/manifest.json").read_text())
        for tensor in manifest["tensors"]:
            quantised = tensor["name"].endswith(("_blocks", "_scales"))
            assert tensor.get("quantized", False) == quantised and (tensor["dtype"] == "uint8") == quantised


# ---------------------------------------------------------------- how it is told

@test
def events_end_with_the_summary():
    with scratch() as room:
        source = plain_experts(room / "plain")
        lines = [json.loads(line) for line in must("convert", source, room / "out", *QUANTIZE, "--progress",
                                                   "json").splitlines()]
        events = [line["event"] for line in lines]
        assert events[-9:] == ["quantized"] * 8 + ["done"], events
        assert all(line["snr_db"] is None and line["max_error"] == 0 and line["turned"] for line in lines[-9:-1])
        table = must("convert", source, room / "again", *QUANTIZE).splitlines()
        assert table[0].split() == ["SNR", "dB", "largest", "max", "error", "of", "it", "from", "tensor"]
        assert table[9].endswith("all 8") and "peak memory" in table[10] and len(table) == 11
        assert must("convert", source, room / "quiet", *QUANTIZE, "-q") == ""
        assert "model.safetensors" in must("convert", source, room / "dry", *QUANTIZE, "-n") and not (room / "dry").exists()


# ---------------------------------------------------------------- what goes wrong

@test
def wrong_options_are_refused():
    with scratch() as room:
        for options, says in (((*QUANTIZE, "--format", "msgpack"), "safetensors"),
                              ((*QUANTIZE, "--precision", "float32"), "source"),
                              ((*QUANTIZE, "--mxfp4", "decode"), "packed"),
                              (("--quantize", "int4"), "mxfp4"),
                              (("--report", "x.json"), "--quantize")):
            refused("convert", LLAMA, room / "out", *options, status=2, says=[says])
        for options, says in ((("--include", "*.nothing.*"), '"*.nothing.*"'),
                              (("--include", "*proj.weight", "--include", "q_proj"), '"q_proj"'),
                              (("--include", "*norm.weight"), "expected a matrix, found 1 dimension"),
                              (("--exclude", "*"), "nothing to quantise")):
            refused("convert", LLAMA, room / "out", *QUANTIZE, *options, says=[says])
        assert not (room / "out").exists()


@test
def what_cannot_be_quantised_is_told_and_kept():
    odd = {"f64.q_proj.weight": normal((2, 32), "F64"), "f8.q_proj.weight": ("F8_E4M3", (2, 32), bytes(64)),
           "odd.q_proj.weight": normal((2, 33), "BF16"), "flat.q_proj.weight": normal((32,), "BF16"),
           "empty.q_proj.weight": ("BF16", (0, 32), b""), "none.q_proj.weight": ("BF16", (4, 0), b""),
           "u8.q_proj.weight": ("U8", (2, 32), bytes(64))}
    reasons = ("found F64", "found F8_E4M3", "found 33", "found 1 dimension", "found none", "found none", "found U8")
    with scratch() as room:
        for (name, tensor), reason in zip(odd.items(), reasons):
            source = model(room / name, {name: tensor})
            refused("convert", source, room / "out", *QUANTIZE, says=[name, reason])
        good = {"good.q_proj.weight": normal((2, 32), "BF16")}
        source = model(room / "in", {**odd, **good})
        done = tensorport("convert", source, room / "out", *QUANTIZE, "-q")
        assert done.returncode == 0 and "left as it is, like 6 more" in done.stderr, done
        out = weights(room / "out")
        assert all(out[name].tobytes() == tensor[2] for name, tensor in odd.items())
        check_quantized(out, "good.q_proj.weight", array_of(good["good.q_proj.weight"]))


@test
def values_that_are_not_finite_are_named():
    for value in (np.nan, -np.inf):
        for dtype in ("BF16", "F16", "F32"):
            for name, at in (("a.q_proj.weight", (5, 77)), ("a.experts.down_proj", (1, 40, 3))):
                with scratch() as room:
                    array = array_of(normal((6, 96) if len(at) == 2 else (2, 64, 32), dtype)).copy()
                    array[at] = value
                    source = model(room / "in", {name: (dtype, array.shape, array.tobytes())}, hidden_size=32)
                    done = tensorport("convert", source, room / "out", *QUANTIZE, "-q")
                    assert done.returncode == 1 and not (room / "out").exists(), done
                    last = done.stderr.splitlines()[-1]
                    assert f'"{name}"' in last and f"at [{', '.join(map(str, at))}]" in last, done


@test
def names_that_are_taken_are_refused():
    with scratch() as room:
        source = model(room / "in", {"a.q_proj.weight": normal((2, 32), "BF16"),
                                     "a.q_proj.weight_scales": ("F32", (1,), bytes(4))})
        done = tensorport("convert", source, room / "out", *QUANTIZE)
        assert done.returncode == 1 and "a.q_proj.weight_scales" in done.stderr.splitlines()[-1], done


@test
def models_quantised_otherwise_are_refused():
    with scratch() as room:
        for config in ({"quant_method": "fp8"}, {}, {"quant_method": 4}):
            source = model(room / f"in{len(str(config))}", {"a.q_proj.weight": normal((2, 32), "BF16")},
                           quantization_config=config)
            refused("convert", source, room / "out", *QUANTIZE, says=["quant_method"])


@test
def odd_configurations_do_no_harm():
    with scratch() as room:
        for i, text in enumerate(("[1]", "{", "", '{"model_type": 7, "hidden_size": "x", "quantization_config": null}',
                                  '{"hidden_size": 1e400}', '{"hidden_size": -1}', '{"quantization_config": {"quant_method": "mxfp4"}}')):
            source = model(room / f"in{i}", {"a.q_proj.weight": normal((2, 32), "BF16"),
                                             "a.experts.down_proj": normal((2, 32, 64), "BF16")})
            (source / "config.json").write_text(text)
            done = tensorport("convert", source, room / f"out{i}", *QUANTIZE, "-q")
            assert done.returncode == 0, done
            check_quantized(weights(room / f"out{i}"), "a.q_proj.weight", array_of(normal((2, 32), "BF16")))


@test
def a_limit_leaves_what_can_be_resumed():
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with scratch() as room:
        source = plain_experts(room / "plain")
        options = (*QUANTIZE, "--shard-size", "0.00005", "-q")
        must("convert", source, room / "expected", *options)
        refused("convert", source, room / "out", *options, says=["File too large"], preexec_fn=limit)
        for file in (room / "out").glob("*.safetensors"):
            assert file.read_bytes() == (room / "expected" / file.name).read_bytes(), "half written"
        must("convert", source, room / "out", *options, "--resume")
        names = sorted(os.listdir(room / "expected"))
        assert sorted(os.listdir(room / "out")) == names
        assert all((room / "out" / name).read_bytes() == (room / "expected" / name).read_bytes() for name in names)
        refused("convert", source, room / "out", *QUANTIZE, "-q", "--resume", "--shard-size", "1",
                says=["holds something else"])


@test
def memory_stays_bounded():
    with scratch() as room:
        source = model(room / "in", {"a.experts.gate_up_proj": ("BF16", (8, 2880, 2880), bytes(8 * 2880 * 2880 * 2))},
                       model_type="gpt_oss")
        done = must("convert", source, room / "out", *QUANTIZE, "-w", "4", "--progress", "json")
        assert json.loads(done.splitlines()[-1])["peak_memory"] < 64 << 20
        with open(room / "out/model.safetensors", "rb") as stream:
            stream.seek(-1 << 20, os.SEEK_END)
            assert not any(stream.read())
        shutil.rmtree(room / "out")


main()
