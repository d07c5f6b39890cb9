"""A program with a line broken must not pass: for each row of mutations.py one source is patched, its
object made again, and tpinfer linked with it; then what owns the line has to notice. That nothing is
noticed where nothing is broken is checked first, and a row whose line is gone is a failure, too.

Objects are made by the Makefile of the build that is tested, in a folder of links to it, so with its
compiler and flags; only the optimiser is off, which saves most of the time. Where a line is shared by
all instruction sets, it is broken in the table of the machine's best one, which is made to run."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mutations import MUTATIONS
from reference_model import decoded, forward, write_goldens
from support import BUILD, KIT, checkpoint, convert, main, read, scratch, test, write_checkpoint

TOP = Path(os.environ.get("TP_TEST_SRCDIR") or Path(__file__).resolve().parents[2]).resolve()
HERE = Path(__file__).resolve().parent
GOLDENS = KIT / "goldens"
FLAGS = {"avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, "avx2": {"avx2", "fma", "f16c", "bmi2"}, "scalar": set()}


def instruction_sets():
    """Of this machine, the best first."""
    text = Path("/proc/cpuinfo").read_text()
    flags = set((re.search(r"^flags\s*:(.*)$", text, re.MULTILINE) or [0, ""])[1].split())
    return [isa for isa, needed in FLAGS.items() if needed <= flags]


# ---------------------------------------------------------------- what the checks look at

def packed(source, folder):
    return convert(source, folder, "--precision", "source", "--mxfp4", "packed")


def with_config(view, folder, change, name="config.json"):
    """A copy whose configuration is changed."""
    shutil.copytree(view, folder)
    config = json.loads((folder / name).read_text())
    change(config)
    (folder / name).write_text(json.dumps(config))
    return folder


def scale_255(tensors):
    """An expert of the first layer that is not a number."""
    tensors = {name: value.copy() for name, value in tensors.items()}
    root = "model.layers.0.mlp.experts.gate_up_proj"
    tensors[root + "_scales"][3, 7] = 255
    tensors[root + "_blocks"][3, 7] |= 0x22  # no zeros, which are not what the line is about
    return tensors


def scale_0(config):
    """One layer whose experts alone speak, in numbers of 2^-127 and less; the last norm makes them
    large enough to be seen."""
    rng = np.random.default_rng(5)
    c = {**config, "num_hidden_layers": 1, "layer_types": ["full_attention"], "hidden_size": 64, "intermediate_size": 32,
         "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "num_local_experts": 2,
         "num_experts_per_tok": 1, "experts_per_token": 1, "vocab_size": 96, "eos_token_id": 1, "pad_token_id": 0}
    c.pop("quantization_config")
    zeros = lambda *shape: np.zeros(shape, np.float32)
    layer, tensors = "model.layers.0.", {"model.embed_tokens.weight": zeros(96, 64), "lm_head.weight": rng.standard_normal((96, 64)).astype(np.float32)}
    for name, rows, columns in (("q", 64, 64), ("k", 32, 64), ("v", 32, 64), ("o", 64, 64)):
        tensors[f"{layer}self_attn.{name}_proj.weight"], tensors[f"{layer}self_attn.{name}_proj.bias"] = zeros(rows, columns), zeros(rows)
    tensors[layer + "self_attn.sinks"] = zeros(2)
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{layer}{name}.weight"] = zeros(64) + 1
    tensors["model.norm.weight"] = zeros(64) + np.float32(2e34)
    tensors[layer + "mlp.router.weight"], tensors[layer + "mlp.router.bias"] = zeros(2, 64), np.array([0, 1], np.float32)
    for name, rows, groups, bias in (("gate_up", 64, 2, 0.5), ("down", 64, 1, 0.0)):
        root = f"{layer}mlp.experts.{name}_proj"
        tensors[root + "_blocks"] = rng.integers(0, 256, (2, rows, groups, 16), np.uint8)
        tensors[root + "_scales"] = np.zeros((2, rows, groups), np.uint8)
        tensors[root + "_bias"] = zeros(2, rows) + np.float32(bias)
    # Codes of 0.5 only, whose product with 2^-127 has fewer bits than any other.
    tensors[layer + "mlp.experts.down_proj_blocks"][1, :32] = 0x11
    tensors[layer + "mlp.experts.down_proj_blocks"][1, :32, 0, :4] = rng.integers(0, 2, (32, 4), np.uint8) * 0x88 | 0x11
    return c, tensors


def make_llama3(llama, folder):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 256}
    config = {**json.loads((checkpoint("llama") / "config.json").read_text()), "rope_scaling": scaling}
    return (with_config(llama, folder / "llama3", lambda c: c.update(rope_scaling=scaling)),
            write_goldens(folder / "goldens-llama3", config, read(checkpoint("llama")),
                          list(np.load(GOLDENS / "llama/past_window.prompt.npy"))))


def make_views(folder):
    """name -> (view, goldens): what validate is given."""
    tiny = packed(checkpoint("tiny"), folder / "tiny")
    llama = packed(checkpoint("llama"), folder / "llama")
    config, tensors = json.loads((checkpoint("tiny") / "config.json").read_text()), read(checkpoint("tiny"))
    prompt = list(np.load(GOLDENS / "tiny/short.prompt.npy"))
    rounded = {**config, "rope_scaling": {**config["rope_scaling"], "truncate": True}}
    views = {"tiny": (tiny, GOLDENS / "tiny"), "llama": (llama, GOLDENS / "llama")}

    def renamed(c):
        c["rope_parameters"] = {**c.pop("rope_scaling"), "factor": 8.0, "rope_theta": c.pop("rope_theta")}
    factor = {**config, "rope_scaling": {**config["rope_scaling"], "factor": 8.0}}
    views["rope_parameters"] = (with_config(tiny, folder / "rope_parameters", renamed),
                                write_goldens(folder / "goldens-factor", factor, tensors, prompt))
    goldens = write_goldens(folder / "goldens-truncated", rounded, tensors, prompt)
    views["truncated"] = with_config(tiny, folder / "truncated", lambda c: c["rope_scaling"].update(truncate=True)), goldens
    views["truncated by default"] = with_config(tiny, folder / "default", lambda c: c["rope_scaling"].pop("truncate")), goldens
    clamped = {**config, "swiglu_limit": 0.5}
    views["clamped"] = (with_config(tiny, folder / "clamped", lambda c: c.update(swiglu_limit=0.5)),
                        write_goldens(folder / "goldens-clamped", clamped, tensors, prompt))
    views["llama3"] = make_llama3(llama, folder)
    nan = scale_255(tensors)
    w = decoded(nan)
    token = next(t for t in range(1022) if np.isnan(forward(config, w, np.array([t]))).all())
    views["scale 255"] = (packed(write_checkpoint(folder / "nan", nan, config), folder / "nan-view"),
                          write_goldens(folder / "goldens-nan", config, nan, [token], steps=1))
    small, tensors = scale_0(config)
    views["scale 0"] = (packed(write_checkpoint(folder / "denormal", tensors, small), folder / "denormal-view"),
                        write_goldens(folder / "goldens-denormal", small, tensors, [5, 7]))
    return views


# ---------------------------------------------------------------- checks: True if nothing is noticed

def run(build, *arguments, env=None):
    return subprocess.run([str(build / "tpinfer"), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})


def validates(view, *options):
    def check(build, views, env):
        done = run(build, "validate", *views[view], *options, env=env)
        said = done.stderr.splitlines()
        assert done.returncode in (0, 1) and bool(said) == (done.returncode == 1), done
        assert all(line.startswith("tpinfer validate: ") for line in said), done.stderr
        return done.returncode == 0
    return check


def names_what_is_missing(build, views, env):
    """The bias of one expert's layer is taken out of the manifest."""
    with scratch() as folder:
        view = folder / "view"
        shutil.copytree(views["tiny"][0], view)
        manifest = json.loads((view / "manifest.json").read_text())
        gone = "model.layers.2.mlp.experts.down_proj_bias"
        manifest["tensors"] = [t for t in manifest["tensors"] if t["name"] != gone]
        (view / "manifest.json").write_text(json.dumps(manifest))
        done = run(build, "validate", view, views["tiny"][1], env=env)
        assert done.returncode == 1, done
        return gone in done.stderr and done.stdout == ""


def a_text_ends(build, views, env):
    """Where generation_config.json says, whichever of its tokens comes; config.json says another."""
    greedy = np.load(GOLDENS / "small/text.greedy.npy").tolist()
    assert greedy[9] not in greedy[:9] and greedy[6] not in greedy[:6]
    with scratch() as folder:
        view = packed(checkpoint("small"), folder / "view")
        (view / "tokenizer.json").unlink()  # with a tokenizer the chat format has stop tokens of its own
        for ends in (greedy[6], greedy[9]), (greedy[9], greedy[6]):
            (view / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
            done = run(build, "run", view, "--token-ids", f"@{GOLDENS / 'small/text.prompt.npy'}", "-n", "40",
                       "--temp", "0", "--json", env=env)
            assert done.returncode == 0, done
            found = json.loads(done.stdout)
            if found["tokens"] != greedy[:7] or found["stop"] != "eos":
                return False
    return True


def passes(script, name):
    """A test of another file, which runs its programs from a folder of links."""
    def check(build, views, env):
        done = subprocess.run([sys.executable, "-B", HERE / script, name], capture_output=True, text=True, timeout=300, check=False,
                              stdin=subprocess.DEVNULL, env={**os.environ, **env, "TP_TEST_BUILDDIR": str(build)})
        assert "1..1" in done.stdout, done
        return done.returncode == 0
    return check


CHECKS = {
    "tiny one": validates("tiny", "--case", "one"),
    "tiny short": validates("tiny", "--case", "short"),
    "tiny text": validates("tiny", "--case", "text"),
    "tiny past_window": validates("tiny", "--case", "past_window"),
    "tiny past_window in steps of 16": validates("tiny", "--case", "past_window", "--chunk", "16"),
    "tiny long": validates("tiny", "--case", "long"),
    "llama short": validates("llama", "--case", "short"),
    **{name: validates(name) for name in ("llama3", "rope_parameters", "truncated", "truncated by default", "clamped", "scale 0", "scale 255")},
    "missing bias is named": names_what_is_missing,
    "a text ends": a_text_ends,
    **{row.check: passes(*row.check.split()) for row in MUTATIONS if row.check.startswith("test_")},
}


# ---------------------------------------------------------------- programs with a line broken

def link_tree(folder):
    """What the build has for tpinfer, as links, which a rule replaces by files. What an object depends on
    is not told: those paths lead nowhere from here. The one that is to be made again is removed."""
    places = [path for part in ("decode", "fs", "infer") for path in (BUILD / part).rglob("*")]
    for part in ("bench", "tests"):  # programs that are not made, but the Makefile reads these
        places += [path for path in (BUILD / part).glob("**/*.Po")]
    for path in [*places, *BUILD.iterdir()]:
        target = folder / path.relative_to(BUILD)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name == ".dirstamp" or path.suffix == ".Po":
            target.touch()
            os.utime(target, (0, 0))
        elif path.suffix in (".o", ".a") or path.parent == BUILD and path.is_file():
            target.symlink_to(path)


def flags_of_build():
    return re.search(r"^CFLAGS = (.*)$", (BUILD / "Makefile").read_text(), re.MULTILINE)[1]


def stale_objects(row, folder, isa):
    source = Path(row.file)
    stem = source.stem if source.suffix == ".c" else f"kernels_{isa}"
    found = [path for path in (folder / source.parent).glob("*.o") if path.stem in (stem, f"{path.stem.split('-')[0]}-{stem}")]
    assert found, f"no object of {row.file}"
    return found


def build_mutant(row, folder, isa):
    """tpinfer with the row's line broken, in `folder`."""
    link_tree(folder)
    text = (TOP / row.file).read_text()
    assert text.count(row.old) == 1, f"{row.file}: expected once, found {text.count(row.old)} times: {row.old!r}"
    for path in stale_objects(row, folder, isa):
        path.unlink()
    (folder / row.file).parent.mkdir(parents=True, exist_ok=True)
    (folder / row.file).write_text(text.replace(row.old, row.new))
    (folder / "tpinfer").unlink()
    make = [os.environ.get("MAKE", "make"), "-o", "Makefile", "-o", "config.status", "-o", "config.h", "-o", "stamp-h1",
            f"srcdir={TOP}", f"top_srcdir={TOP}", f"VPATH={TOP}", f"CFLAGS={flags_of_build()} -O0 -g0 -w -Wno-error", "tpinfer"]
    done = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                          env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))})
    assert done.returncode == 0 and not (folder / "tpinfer").is_symlink(), done.stdout + done.stderr
    assert done.stdout.count("  CC  ") <= 1, f"made more again than {row.file}:\n{done.stdout}"


def try_row(row, views, isas):
    """None, or what is wrong."""
    isa = isas[0] if row.isa == "any" else row.isa
    with scratch() as folder:
        try:
            build_mutant(row, folder, isa)
            (folder / "tests").mkdir(exist_ok=True)
            if not (folder / "tests/checkpoints").exists():
                (folder / "tests/checkpoints").symlink_to(BUILD / "tests/checkpoints")
            survived = CHECKS[row.check](folder, views, {"TENSORPORT_ISA": isa})
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            return f"{row.trap}: {error}"
    return f"{row.trap}: {row.file} is broken, and nothing in \"{row.check}\" fails" if survived else None


# ---------------------------------------------------------------- tests

@test
def the_reference_in_numpy_is_right():
    """By transformers' goldens, before others are made with it."""
    for model, case in (("tiny", "short"), ("tiny", "past_window"), ("llama", "text")):
        folder = checkpoint(model)
        config, w = json.loads((folder / "config.json").read_text()), decoded(read(folder))
        prompt, expected = (np.load(GOLDENS / f"{model}/{case}.{part}.npy") for part in ("prompt", "logits"))
        assert np.abs(forward(config, w, prompt)[-1] - expected[0]).max() < 1e-4


@test
def the_table_tells_each_line_once():
    for row in MUTATIONS:
        count = (TOP / row.file).read_text().count(row.old)
        assert count == 1, f"{row.file}: expected once, found {count} times: {row.old!r}"
        assert row.old != row.new and row.check in CHECKS, row


@test(limit=900)
def broken_lines_are_noticed():
    isas = instruction_sets()
    rows = [row for row in MUTATIONS if row.isa == "any" or row.isa in isas]
    with scratch() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        views = make_views(folder)
        used = sorted({(row.check, isas[0] if row.isa == "any" else row.isa) for row in rows})
        whole = pool.map(lambda use: CHECKS[use[0]](BUILD, views, {"TENSORPORT_ISA": use[1]}), used)
        broken = [use for use, passed in zip(used, whole) if not passed]
        assert not broken, f"fails although nothing is broken: {broken}"
        faults = [fault for fault in pool.map(lambda row: try_row(row, views, isas), rows) if fault]
        print(f"# {len(rows)} lines, {len(faults)} of them not held")
        assert not faults, "\n".join(faults)


main()
