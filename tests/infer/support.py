"""What the tests of infer/ share: the harness of tests/mount, checkpoints as numpy reads them, and the
program that shows what was bound.

    from support import Mount, bound, checkpoint, main, make, scratch, show, test
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import safe_open

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "mount"))
sys.path.insert(0, str(HERE.parent / "kit"))

from common import mxfp4_decode  # noqa: E402
from generate import write_file  # noqa: E402
from harness import BUILD, KIT, Mount, checkpoint, main, scratch, test, wait_for  # noqa: E402

__all__ = ["BUILD", "KIT", "Mount", "bound", "checkpoint", "convert", "main", "make", "read", "refused", "run",
           "scratch", "show", "start", "test", "wait_for", "write_checkpoint",
           "write_view"]

SHOW = BUILD / "tests/infer/show-model"
NAMES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(ml_dtypes.bfloat16): "BF16",
         np.dtype(np.uint8): "U8", np.dtype(np.int32): "I32", np.dtype(np.float64): "F64"}
TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


# ---------------------------------------------------------------- programs

def run(*arguments, **how):
    return subprocess.run([str(SHOW), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **how)


def show(view, *options):
    """What the program binds, as its JSON."""
    done = run(*options, view)
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def refused(view, *says, options=()):
    """One line that contains all of `says`, and exit status 1."""
    done = run(*options, view)
    assert done.returncode == 1, done
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done
    for part in says:
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"
    return done.stderr


def start(*arguments, option="--hold", state="bound"):
    """A program that has bound its view (or, with --pause, only opened it) and waits."""
    process = subprocess.Popen([str(SHOW), option, *map(str, arguments)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == f"{state}\n", process.communicate()
    return process


def convert(source, folder, *options):
    subprocess.run([str(BUILD / "tensorport"), "convert", "-q", *map(str, options), str(source), str(folder)], check=True,
                   stdin=subprocess.DEVNULL)
    return folder


def make(folder, *options):
    """A checkpoint of the kit with these options."""
    subprocess.run([sys.executable, "-B", str(KIT / "make_checkpoint.py"), str(folder), *map(str, options)], check=True,
                   stdout=subprocess.DEVNULL)
    return folder


# ---------------------------------------------------------------- checkpoints

def read(folder):
    """Every tensor as stored."""
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            out.update({name: file.get_tensor(name) for name in file.keys()})
    return out


def write_checkpoint(folder, tensors, config):
    folder.mkdir(parents=True)
    write_file(folder / "model.safetensors", {
        name: (NAMES[value.dtype], value.shape, np.ascontiguousarray(value).tobytes()) for name, value in tensors.items()})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_view(folder, tensors, config):
    """A view of these tensors as they are, written by numpy: what the programs would refuse to write."""
    (folder / "shard_000").mkdir(parents=True)
    entries = []
    for i, (name, value) in enumerate(tensors.items()):
        file = f"shard_000/{i}.npy"
        np.save(folder / file, value)
        entries.append({"name": name, "file": file, "shape": value.shape, "dtype": str(value.dtype), "nbytes": value.nbytes,
                        "source": {}})
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "tensors": entries}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _matrix(array, n=1):
    rows, columns = array.shape[-2:]
    return {"type": str(array.dtype), "n": n, "rows": rows, "columns": columns, "sha256": _sha(array)}


def _vector(array):
    array = array.astype(np.float32)
    return {"type": "vector", "n": array.size, "sha256": _sha(array)}


def _experts(tensors, name, precision):
    blocks, scales = tensors.get(f"{name}_blocks"), tensors.get(f"{name}_scales")
    if blocks is None:
        array = tensors[name]
        return _matrix(array if precision == "packed" else array.astype(TYPES[precision]), len(array))
    if precision == "packed":
        n, rows, groups = scales.shape
        return {"type": "mxfp4", "n": n, "rows": rows, "columns": 32 * groups, "sha256": _sha(blocks), "scales": _sha(scales)}
    return _matrix(mxfp4_decode(blocks, scales).astype(TYPES[precision]), len(scales))


PARTS = {"input_layernorm.weight": "input_norm", "post_attention_layernorm.weight": "mlp_norm", "self_attn.sinks": "sinks",
         "mlp.router.weight": "router", "mlp.router.bias": "router_bias",
         "mlp.experts.gate_up_proj_bias": "experts_gate_up_bias", "mlp.experts.down_proj_bias": "experts_down_bias",
         **{f"self_attn.{x}_proj.weight": x for x in "qkvo"}, **{f"self_attn.{x}_proj.bias": f"{x}_bias" for x in "qkvo"},
         **{f"mlp.{x}_proj.weight": x for x in ("gate", "up", "down")},
         **{f"mlp.{x}_proj.bias": f"{x}_bias" for x in ("gate", "up", "down")}}
TOP = {"model.embed_tokens.weight": "embedding", "model.norm.weight": "final_norm", "lm_head.weight": "head"}


def bound(tensors, precision):
    """What show-model prints under "weights" for a view of these tensors."""
    out = {}
    for name, array in tensors.items():
        layer, part = "", TOP.get(name)
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            for kind in ("gate_up", "down"):
                if rest in (f"mlp.experts.{kind}_proj", f"mlp.experts.{kind}_proj_blocks"):
                    root = name.removesuffix("_blocks")
                    out[f"{layer}.experts_{kind}"] = _experts(tensors, root, precision)
            part, layer = PARTS.get(rest.removesuffix("_blocks")), f"{layer}."
        if part is None:
            continue
        if name.endswith("_blocks"):
            root = name.removesuffix("_blocks")
            pair = {f"{root}{half}": tensors[f"{root}{half}"][None] for half in ("_blocks", "_scales")}
            out[layer + part] = _experts(pair, root, precision)
            continue
        array = array if precision == "packed" else array.astype(TYPES[precision])
        is_matrix = part in ("embedding", "head", "router", *"qkvo", "gate", "up", "down")
        out[layer + part] = _matrix(array) if is_matrix else _vector(array)
    out.setdefault("head", out["embedding"])
    return out
