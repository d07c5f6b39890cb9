"""`tpinfer trace`: the files against transformers' goldens, and against each other by numpy."""

import json
import resource
import subprocess

import numpy as np
from support import BUILD, KIT, Mount, checkpoint, convert, main, read, scratch, test

GOLDENS = KIT / "goldens"
VIEWS = {}
OF_LAYER = ["input_norm", "queries", "keys", "values", "mixed", "attention", "mlp_norm", "router_logits", "router_experts", "router_weights",
            "mlp", "residual"]


def view(name):
    if name not in VIEWS:
        VIEWS[name] = convert(checkpoint(name), VIEWS["folder"] / name, "--precision", "source", "--mxfp4", "packed")
    return VIEWS[name]


def tpinfer(*arguments, **how):
    return subprocess.run([BUILD / "tpinfer", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
                          stdin=subprocess.DEVNULL, **how)


def refused(*arguments, status=1, says=(), **how):
    done = tpinfer("trace", *arguments, **how)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done
    for part in says:
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"


def trace(place, folder, *options):
    """index.json, and (name, layer) -> array."""
    done = tpinfer("trace", place, "--dump", folder, *options)
    assert (done.returncode, done.stdout) == (0, ""), done
    return load(folder)


def load(folder):
    index = json.loads((folder / "index.json").read_text())
    names = [entry["file"] for entry in index["files"]]
    assert sorted([*names, "index.json"]) == sorted(p.name for p in folder.iterdir()) and names == sorted(names)
    arrays = {}
    for entry in index["files"]:
        array = np.load(folder / entry["file"])
        assert list(array.shape) == entry["shape"] and str(array.dtype) == entry["dtype"] and array.flags.c_contiguous
        arrays[entry["name"], entry["layer"]] = array
    return index, arrays


def stacked(arrays, name):
    return np.stack([array for (n, _), array in arrays.items() if n == name])


@test
def stages_are_transformers():
    for name in ("tiny", "small", "llama", "mistral"):
        golden = {p.name.split(".")[1]: np.load(p) for p in (GOLDENS / name).glob("short.*.npy")}
        with scratch() as folder:
            index, found = trace(view(name), folder / "dump", "--token-ids", f"@{GOLDENS / name / 'short.prompt.npy'}")
            assert index["tokens"] == golden["prompt"].tolist() and index["model_type"] == ("gpt_oss" if name in ("tiny", "small") else name)
            stages = OF_LAYER if name in ("tiny", "small") else [n for n in OF_LAYER if not n.startswith("router")]
            layers = len(golden["attention"])
            assert list(found) == [("embedding", None), *((n, i) for i in range(layers) for n in stages), ("norm", None), ("logits", None)]
            close = [("attention", golden["attention"]), ("mlp", golden["mlp"]), ("residual", golden["residual"][1:]),
                     ("router_logits", golden.get("router_logits")), ("router_weights", golden.get("router_weights"))]
            for stage, expected in close:
                if expected is not None:
                    assert np.abs(stacked(found, stage) - expected).max() < 1e-4, (name, stage)
            assert np.array_equal(found["embedding", None], golden["residual"][0])
            assert np.abs(found["norm", None] - golden["norm"]).max() < 1e-4
            assert np.abs(found["logits", None][-1] - golden["logits"][0]).max() < 1e-4
            if name in ("tiny", "small"):
                assert np.array_equal(stacked(found, "router_experts"), golden["router_experts"])
                assert found["router_experts", 0].dtype == np.int32


@test
def what_goldens_lack_follows_from_the_weights():
    """Norms, queries, keys, values and what is mixed, of layers with and without a window."""
    tensors = {name: value.astype(np.float64) for name, value in read(checkpoint("tiny")).items() if value.dtype.itemsize != 1}
    prompt = np.load(GOLDENS / "tiny/past_window.prompt.npy")
    positions, cos, sin = (np.load(GOLDENS / f"tiny/rope.{part}.npy") for part in ("positions", "cos", "sin"))
    with scratch() as folder:
        _, found = trace(view("tiny"), folder / "dump", "--token-ids", ",".join(map(str, prompt)))
    for layer in (0, 1):
        part = {stage: found[stage, layer].astype(np.float64) for stage in OF_LAYER}
        before = found["embedding", None] if layer == 0 else found["residual", layer - 1]
        weight = {n.removeprefix(f"model.layers.{layer}."): v for n, v in tensors.items() if n.startswith(f"model.layers.{layer}.")}

        def norm(x, name):
            x = x.astype(np.float64)
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight[name + ".weight"]
        assert np.abs(part["input_norm"] - norm(before, "input_layernorm")).max() < 1e-5
        assert np.abs(part["mlp_norm"] - norm(before + part["attention"], "post_attention_layernorm")).max() < 1e-5
        assert np.abs(before + part["attention"] + part["mlp"] - part["residual"]).max() < 1e-5
        for stage, name in (("queries", "q"), ("keys", "k"), ("values", "v")):
            plain = part["input_norm"] @ weight[f"self_attn.{name}_proj.weight"].T + weight[f"self_attn.{name}_proj.bias"]
            plain = plain.reshape(part[stage].shape)
            if stage != "values":
                a, b = np.split(plain[:40], 2, -1)
                c, s = cos[:40, None], sin[:40, None]
                assert positions[:40].tolist() == list(range(40))
                plain = np.concatenate([a * c - b * s, b * c + a * s], -1)
            assert np.abs(part[stage][:len(plain)] - plain).max() < 1e-4, stage
        for i in (0, 5, 127, 128, 164):
            seen = slice(max(0, i - 127), i + 1) if layer == 0 else slice(0, i + 1)
            for h in range(4):
                scores = np.append(part["keys"][seen, h // 2] @ part["queries"][i, h] / 8, weight["self_attn.sinks"][h])
                e = np.exp(scores - scores.max())
                assert np.abs(e[:-1] / e.sum() @ part["values"][seen, h // 2] - part["mixed"][i, h]).max() < 1e-5
        out = part["mixed"].reshape(len(prompt), -1) @ weight["self_attn.o_proj.weight"].T + weight["self_attn.o_proj.bias"]
        assert np.abs(out - part["attention"]).max() < 1e-4


@test
def long_texts_in_steps():
    """More than one step; each row is where it belongs."""
    prompt = np.load(GOLDENS / "tiny/very_long.prompt.npy")[:1100]
    with scratch() as folder:
        np.save(folder / "ids.npy", prompt.astype(np.int64))
        _, long = trace(view("tiny"), folder / "long", "--token-ids", f"@{folder / 'ids.npy'}", "-q")
        _, short = trace(view("tiny"), folder / "short", "--token-ids", ",".join(map(str, prompt[:600])), "-t", 1)
        for key, array in short.items():
            assert len(long[key]) == 1100 and np.array_equal(long[key][:600], array), key


@test
def text_and_folders():
    with Mount(checkpoint("small")) as mount, scratch() as folder:
        index, _ = trace(mount.path, folder / "a", "-p", "Hello there")
        assert len(index["tokens"]) > 1
        refused(mount.path, "--dump", folder / "a", "-p", "x", says=["a: expected a folder that is empty", "--force"])
        (folder / "a/notes.txt").write_text("mine")
        (folder / "a/0999_layer_77_old.npy").write_text("from before")
        done = tpinfer("trace", mount.path, "--dump", folder / "a", "-p", "x", "--force", "-q")
        assert (done.returncode, done.stderr) == (0, ""), done
        assert (folder / "a/notes.txt").read_text() == "mine"
        (folder / "a/notes.txt").unlink()
        index, _ = load(folder / "a")
        assert len(index["tokens"]) == 1
        (folder / "empty").mkdir()
        trace(mount.path, folder / "empty", "--token-ids", "1 2 3", "--activations", "bf16", "--kv-type", "bf16")
        assert json.loads((folder / "empty/index.json").read_text())["activations"] == "bf16"


@test
def mistakes():
    tiny = view("tiny")
    with scratch() as folder:
        dump = folder / "dump"
        refused(tiny, "--dump", dump, status=2, says=["--prompt or --token-ids"])
        refused(tiny, "--dump", dump, "-p", "x", "--token-ids", "1", status=2, says=["--prompt or --token-ids"])
        refused(tiny, "-p", "x", status=2, says=["--dump"])
        refused("--dump", dump, "-p", "x", status=2, says=["VIEW"])
        refused(tiny, "--dump", dump, "--token-ids", "1,1088", says=["below 1088", "found 1088"])
        refused(tiny, "--dump", dump, "--token-ids", "1,x", says=["--token-ids", "'x'"])
        refused(tiny, "--dump", dump, "--token-ids", "", says=["at least one token"])
        refused(tiny, "--dump", dump, "-p", "", says=["at least one token"])
        refused(tiny, "--dump", dump, "--token-ids", "1,2,3", "-c", 2, says=["context"])
        refused(tiny, "--dump", dump, "--token-ids", f"@{folder}/none.npy", says=["none.npy"])
        np.save(folder / "floats.npy", np.zeros(3, np.float32))
        refused(tiny, "--dump", dump, "--token-ids", f"@{folder}/floats.npy", says=["floats.npy", "float32"])
        assert not dump.exists()
        (folder / "file").write_text("")
        refused(tiny, "--dump", folder / "file", "--token-ids", "1", says=["file"])
        refused(tiny, "--dump", folder / "no/where", "--token-ids", "1", says=["no/where"])

        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        refused(tiny, "--dump", folder / "full", "--token-ids", ",".join(["1"] * 100), says=["cannot write"], preexec_fn=small_files)
        assert not (folder / "full/index.json").exists()


with scratch() as VIEWS["folder"]:
    main()
