"""`tpinfer validate`: passes what is right by transformers' goldens, fails for a single number that is
not, and its figures are numpy's. What it must notice of the engine is in test_mutations.py."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager

import numpy as np
from support import BUILD, KIT, Mount, checkpoint, convert, main, scratch, test
from robust import SLOW

GOLDENS = KIT / "goldens"
MODELS = ("tiny", "small", "llama", "mistral") if SLOW == 1 else ("tiny", "llama")  # with sanitizers minutes are saved
VIEWS = {}
# What computes a lot, and with sanitizers says nothing new, is left out there.
costly = test if SLOW == 1 else lambda function: function


def view(name):
    """A packed copy, made once."""
    if name not in VIEWS:
        VIEWS[name] = convert(checkpoint(name), VIEWS["folder"] / name, "--precision", "source", "--mxfp4", "packed")
    return VIEWS[name]


def validate(name, goldens, *options, isa=None, **how):
    env = {**os.environ, **({"TENSORPORT_ISA": isa} if isa else {})}
    place = view(name) if isinstance(name, str) else name
    return subprocess.run([BUILD / "tpinfer", "validate", place, goldens, *map(str, options)], text=True, timeout=300,
                          check=False, stdin=subprocess.DEVNULL, env=env, **{"stdout": -1, "stderr": -1, **how})


def passes(name, *options, goldens=None, **how):
    done = validate(name, goldens or GOLDENS / name, *options, **how)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def measured(name, *options, goldens=None, status=0):
    done = validate(name, goldens or GOLDENS / name, "--json", *options)
    assert done.returncode == status, done
    return json.loads(done.stdout)


def fails(name, goldens, *says, options=()):
    """Exit status 1, a line on stderr for each failure, each of `says` in one of them."""
    done = validate(name, goldens, *options)
    assert done.returncode == 1 and all(line.startswith("tpinfer validate: ") for line in done.stderr.splitlines()), done
    for part in says:
        assert any(part in line for line in done.stderr.splitlines()), f"expected {part!r} in: {done.stderr}"
    return done.stderr.splitlines()


def refused(*arguments, status=1, says=()):
    done = subprocess.run([BUILD / "tpinfer", "validate", *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done
    for part in says:
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"


@contextmanager
def altered(name, change=None, manifest=None):
    """A copy of the goldens in which `change` (file -> function of its array) and the manifest differ."""
    with scratch() as folder:
        copy = folder / "goldens"
        shutil.copytree(GOLDENS / name, copy)
        for file, function in (change or {}).items():
            array = np.load(copy / file)
            np.save(copy / file, function(array))
        if manifest:
            about = json.loads((copy / "manifest.json").read_text())
            manifest(about)
            (copy / "manifest.json").write_text(json.dumps(about))
        yield copy


def case_of(about, name):
    return next(case for case in about["cases"] if case["name"] == name)


def logits(name, ids, n, bf16=False):
    """Of the last n positions, by the program of test_forward.py."""
    env = {**os.environ, **({"BF16": "1"} if bf16 else {})}
    done = subprocess.run([BUILD / "tests/infer/forward", view(name), "512", "2", str(n)], input=ids.astype("<u4").tobytes(),
                          capture_output=True, timeout=120, check=True, env=env)
    return np.frombuffer(done.stdout, "<f4").reshape(n, -1).astype(np.float64)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence(expected, found):
    """KL of each row."""
    p, q = softmax(expected), softmax(found)
    return (p * np.log(p / q)).sum(-1)


def near(a, b, relative=1e-6):
    return abs(a - b) <= relative * max(abs(a), abs(b)) + 1e-300


# ---------------------------------------------------------------- what is right

@test
def every_golden_passes():
    """Prompts of 1 to 4133 tokens; all cases, tokens, experts and stages."""
    for name in MODELS:
        about = json.loads((GOLDENS / name / "manifest.json").read_text())
        found = measured(name)
        assert [case["name"] for case in found["cases"]] == [case["name"] for case in about["cases"]]
        assert found["ok"] and found["failures"] == [] and found["rope"]["off"] == 0
        for case, expected in zip(found["cases"], about["cases"]):
            steps = expected["steps"]
            assert case["tokens"] == expected["prompt_length"] + steps - 1
            assert case["greedy"] == {"all": steps, "same": steps} and case["likeliest"] == {"all": steps, "same": steps, "near_ties": 0}
            assert case["logits"]["rows"] == expected["logits_shape"][0] and case["logits"]["top1"] == 1
            assert case["logits"]["largest"] < 1e-4 and case["same_bits_in_any_steps"]
            if name in ("tiny", "small") and expected["prompt_length"] < 1000:
                assert case["experts"]["all"] == case["experts"]["same"] == about["layers"] * expected["prompt_length"]
        stages = {(s["name"], s["layer"]) for s in next(c for c in found["cases"] if c["name"] == "short")["stages"]}
        layers = about["layers"]
        names = ["residual", "attention", "mlp", *(["router_logits"] if name in ("tiny", "small") else [])]
        assert stages == {("embedding", 0), ("norm", layers), *((n, layer) for n in names for layer in range(layers))}


@test
def off_a_mount_as_well():
    with Mount(checkpoint("tiny")) as mount:
        done = validate(mount.path, GOLDENS / "tiny", "--case", "short")
        assert (done.returncode, done.stderr) == (0, ""), done


@costly
def steps_threads_and_instruction_sets():
    """Steps of 1 and 16 let the windows' memory go round."""
    for options in (("--chunk", 1, "-t", 1), ("--chunk", 7), ("--chunk", 16, "-t", 3), ("--chunk", 129, "-t", 5)):
        for name in ("tiny", "mistral"):
            passes(name, "--case", "past_window", *options)
    passes("tiny", "--case", "very_long", "--chunk", 64)
    for isa in ("scalar", "avx2"):
        passes("tiny", "--case", "short", "--case", "window", isa=isa)


@costly
def bf16_is_as_the_reference_in_bf16():
    for name in MODELS:
        for options in (("--activations", "bf16"), ("--kv-type", "bf16"), ("--activations", "bf16", "--kv-type", "bf16")):
            passes(name, *options)
    lines = fails("tiny", GOLDENS / "tiny", "logits: off by", options=("--activations", "bf16", "--tolerance", "1e-4"))
    assert len(lines) > 8
    with altered("tiny", manifest=lambda about: [case["bf16"].update(rms_diff=1e-3) for case in about["cases"]]) as goldens:
        fails("tiny", goldens, "all: logits: off by an rms of", options=("--activations", "bf16"))


# ---------------------------------------------------------------- what is not

@costly
def bf16_goes_on_like_float32():
    """Running freely, each case for as many tokens as the reference in BF16."""
    for name in MODELS:
        about = json.loads((GOLDENS / name / "manifest.json").read_text())
        for case in measured(name, "--activations", "bf16")["cases"]:
            reference = case_of(about, case["name"])["bf16"]
            assert case["greedy"]["same"] >= reference["greedy_steps_equal"], f"{name}, {case['name']}: {case['greedy']}"


@test
def a_single_number_is_noticed():
    def add(index, by):
        def change(array):
            array[index] += by
            return array
        return change
    cases = [("short.logits.npy", (3, 17), 2e-3, "short: logits: off by"), ("short.residual.npy", (0, 4, 5), 1e-3, "short: embedding, layer 0"),
             ("short.residual.npy", (3, 10, 127), 1e-3, "short: residual, layer 2"), ("short.attention.npy", (1, 0, 0), 1e-3, "short: attention, layer 1"),
             ("short.mlp.npy", (3, 10, 127), 1e-3, "short: mlp, layer 3"), ("short.norm.npy", (0, 1), 1e-3, "short: norm, layer 4"),
             ("short.router_logits.npy", (2, 5, 7), 1e-3, "short: router_logits, layer 2"),
             ("short.router_weights.npy", (0, 0, 3), 1e-3, "short: router_weights"), ("rope.cos.npy", (9, 3), 1e-3, "rope: 1 of 1536"),
             ("rope.sin.npy", (44, 11), 1e-2, "at position 4095")]
    for file, index, by, says in cases:
        with altered("tiny", {file: add(index, by)}) as goldens:
            if file == "rope.sin.npy":
                index = int(np.flatnonzero(np.load(goldens / "rope.positions.npy") == 4095)[0])
                np.save(goldens / file, add((index, 30), by)(np.load(GOLDENS / "tiny" / file)))
            only = () if file.startswith("rope") else ("--case", "short")
            assert len(fails("tiny", goldens, says, options=only)) == 1, file

    def other_expert(array):
        array[2, 6, 1] = next(e for e in range(8) if e not in array[2, 6])
        return array
    with altered("tiny", {"chat.router_experts.npy": other_expert}) as goldens:
        fails("tiny", goldens, "chat: router: 159 of 160", "layer 2, token 6", options=("--case", "chat"))
    with altered("tiny", {"one.greedy.npy": lambda a: np.append(a[:-1], (a[-1] + 1) % 1000)}) as goldens:
        fails("tiny", goldens, "one: greedy tokens: 39 of 40", "one: likeliest tokens: 39 of 40", "after position 39", options=("--case", "one"))
    with altered("tiny", {"one.logits.npy": add((0, 0), np.nan)}) as goldens:
        fails("tiny", goldens, "one: logits: 1 of 8704 are NaN or infinite", options=("--case", "one"))


@test
def near_ties_are_none():
    """A token that the reference itself had by less than the tolerance."""
    second = case_of(json.loads((GOLDENS / "tiny/manifest.json").read_text()), "one")["second"][-1]
    change = {"one.greedy.npy": lambda a: np.append(a[:-1], second).astype(np.int32)}

    def close(margin):
        def manifest(about):
            case_of(about, "one")["margins"][-1] = margin
        return manifest
    with altered("tiny", change, close(1e-5)) as goldens:
        found = measured("tiny", "--case", "one", goldens=goldens)
        assert found["all"]["likeliest"] == {"all": 40, "same": 39, "near_ties": 1} and found["ok"]
    with altered("tiny", change, close(1e-3)) as goldens:
        fails("tiny", goldens, "one: greedy tokens: 39 of 40", options=("--case", "one"))


@test
def folders_that_are_no_goldens():
    tiny = view("tiny")
    refused(tiny, KIT / "nowhere", says=["nowhere", "No such file"])
    refused(tiny, KIT, says=["manifest.json"])
    refused(tiny, GOLDENS / "numbers", says=["cases", "greedy"])
    refused(tiny, GOLDENS / "small", says=["another model", "layers is 6"])
    refused(view("mistral"), GOLDENS / "llama", says=["another model", "llama", "mistral"])
    refused(checkpoint("tiny"), GOLDENS / "tiny", says=["tensorport-mount"])
    manifests = {"[]": "object", "{": "", '{"cases": 3}': "cases", '{"cases": []}': "at least one case", '{"cases": [3]}': "name of a case",
                 '{"cases": [{"name": "../x"}]}': "without '/'", '{"greedy": {"a": {"prompt": [1], "greedy": []}}}': "greedy",
                 '{"greedy": {"a": {"prompt": [1088], "greedy": [1]}}}': "prompt", '{"greedy": {"a": {"prompt": [1], "greedy": [1.5]}}}': "greedy",
                 '{"cases": [{"name": "none"}]}': "none.prompt.npy", '{"cases": [{"name": "one", "margins": "x"}]}': "margins",
                 '{"cases": [{"name": "one", "bf16": 1}]}': "bf16"}
    for text, says in manifests.items():
        with altered("tiny") as goldens:
            (goldens / "manifest.json").write_text(text)
            refused(tiny, goldens, says=[str(goldens), says])
    arrays = {"one.prompt.npy": [(lambda a: a + 1088, "vocabulary"), (lambda a: a - 5000, "expected 0 to"), (lambda a: a.astype(np.float32), "int32"),
                                 (lambda a: a[:0], "at least one"), (lambda a: a[None], "1 dimensions")],
              "one.logits.npy": [(lambda a: a[:, 1:], "vocabulary"), (lambda a: a.astype(np.float64), "float32"), (np.asfortranarray, "Fortran"),
                                 (lambda a: np.tile(a, (6, 1)), "continuation")],
              "one.router_experts.npy": [(lambda a: a[:3], "router_experts"), (lambda a: a[..., :3], "router_experts")],
              "short.residual.npy": [(lambda a: a[:4], "residual")]}
    for file, changes in arrays.items():
        for change, says in changes:
            with altered("tiny", {file: change}) as goldens:
                refused(tiny, goldens, "--case", file.split(".")[0], says=[file, says])
    with altered("tiny") as goldens:
        data = (goldens / "one.logits.npy").read_bytes()
        for broken in (data[:-1], data[:50], b"", data + b"x"):
            (goldens / "one.logits.npy").write_bytes(broken)
            refused(tiny, goldens, "--case", "one", says=["one.logits.npy"])
        (goldens / "one.logits.npy").unlink()
        refused(tiny, goldens, "--case", "one", says=["one.logits.npy"])


@test
def the_command_line():
    tiny, goldens = view("tiny"), GOLDENS / "tiny"
    refused(tiny, status=2, says=["VIEW and GOLDENS"])
    refused(tiny, goldens, "x", status=2, says=["VIEW and GOLDENS"])
    for option in (("--chunk", "0"), ("--chunk", "513"), ("--tolerance", "-1"), ("--tolerance", "x"), ("--tolerance", "nan"),
                   ("--against", "f16"), ("--max-kl", "1e-3"), ("--activations", "f8")):
        refused(tiny, goldens, *option, status=2, says=[option[0]])
    refused(tiny, goldens, "--case", "other", says=["--case", "other"])
    refused(tiny, goldens, "--case", "chat", "-c", "20", says=["context", "20"])
    with open("/dev/full", "w") as full:
        done = validate("tiny", goldens, "--case", "one", stdout=full)
        assert done.returncode == 1 and "cannot write" in done.stderr, done
    table = passes("tiny", "--case", "one", "--case", "short").splitlines()
    assert [line.split()[0] for line in table] == ["case", "one", "short", "all", "2"] and table[-1] == "2 cases, 0 failures"
    assert measured("tiny", "--case", "one")["engine"]["chunk"] == 512
    found = measured("tiny", "--case", "one", "--tolerance", "0", status=1)
    assert not found["ok"] and any("logits" in line for line in found["failures"])


# ---------------------------------------------------------------- the figures

@test
def the_figures_are_numpy_s():
    prompt, greedy, expected = (np.load(GOLDENS / f"tiny/long.{part}.npy") for part in ("prompt", "greedy", "logits"))
    with altered("tiny", {"long.logits.npy": lambda a: a + np.float32(0.01) * np.random.default_rng(3).standard_normal(a.shape, np.float32)}) as goldens:
        expected = np.load(goldens / "long.logits.npy").astype(np.float64)
        found = logits("tiny", np.concatenate([prompt, greedy[:-1]]), len(greedy))[:len(expected)]
        case, = measured("tiny", "--case", "long", "--tolerance", "0.1", goldens=goldens)["cases"]
    error = found - expected
    said = case["logits"]
    assert near(said["largest"], np.abs(error).max()) and near(said["rms"], np.sqrt((error ** 2).mean()))
    assert near(said["size"], np.sqrt((expected ** 2).mean())) and near(said["nmse"], (error ** 2).sum() / (expected ** 2).sum())
    assert near(1 - said["cosine"], 1 - (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected), 1e-5)
    kl = divergence(expected, found)
    assert near(said["kl"], kl.mean(), 1e-5) and near(said["largest_kl"], kl.max(), 1e-5)


@costly
def against_float32():
    prompt, greedy = (np.load(GOLDENS / f"tiny/window.{part}.npy") for part in ("prompt", "greedy"))
    ids = np.concatenate([prompt, greedy[:-1]])
    plain, rounded = logits("tiny", ids, len(ids)), logits("tiny", ids, len(ids), bf16=True)
    kl = divergence(plain, rounded)
    case, = measured("tiny", "--case", "window", "--against", "f32", "--activations", "bf16")["cases"]
    assert case["logits"]["rows"] == case["tokens"] == len(ids)
    assert near(case["logits"]["kl"], kl.mean(), 1e-5) and near(case["logits"]["largest_kl"], kl.max(), 1e-5)
    assert near(case["logits"]["top1"], (plain.argmax(-1) == rounded.argmax(-1)).mean())
    assert near(case["logits"]["rms"], np.sqrt(((plain - rounded) ** 2).mean()))
    limits = [("--max-kl", kl.mean() * 1.01, 0), ("--max-kl", kl.mean() * 0.99, 1), ("--tolerance", 1e-4, 1), ("--tolerance", 1, 0)]
    for option, limit, status in limits:
        measured("tiny", "--case", "window", "--against", "f32", "--activations", "bf16", option, limit, status=status)
    same = measured("tiny", "--against", "f32", "--max-kl", 0, "--tolerance", 0, "--chunk", 100)
    assert same["ok"] and same["all"]["logits"]["largest"] == 0 and same["all"]["logits"]["top1"] == 1


with scratch() as VIEWS["folder"]:
    main()
