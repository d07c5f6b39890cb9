"""The GPU backend without a GPU: `tpinfer --backend cuda` with a plugin whose kernels run in the
harness. Judged by transformers' goldens, and by the CPU backend on shapes that those do not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "infer"))

from run_support import TPINFER, golden_cases, ids, logits_of, packed  # noqa: E402
from support import BUILD, KIT, checkpoint, convert, main, read, scratch, test, write_checkpoint  # noqa: E402

PLUGIN = BUILD / "tests/cuda/tensorport-cuda-harness.so"
WATCHED = BUILD / "tests/cuda/tensorport-cuda-watched.so"  # fails where accesses of kernels break a rule: see watch.h
GREEDY = ("--temp", 0, "--ignore-eos")
EXACT = ("--backend", "cuda", "--kv-type", "f32", "--activations", "f32")
VALIDATE_TIMEOUT = 280


def harness(plugin=PLUGIN, **settings):
    """The environment of a machine with that device."""
    return {**os.environ, "TENSORPORT_CUDA_PLUGIN": str(plugin),
            **{f"TENSORPORT_HARNESS_{name.upper()}": str(value) for name, value in settings.items()}}


def validate(view, name, *options, **settings):
    return subprocess.run([str(word) for word in (TPINFER, "validate", view, KIT / "goldens" / name, *options)], text=True,
                          capture_output=True, timeout=VALIDATE_TIMEOUT, check=False, env=harness(**settings))


def passes(view, name, *options, **settings):
    done = validate(view, name, *options, **settings)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def synth(folder, name, *options):
    """A packed view of a checkpoint of that shape."""
    subprocess.run([str(word) for word in (BUILD / "tensorport", "synth", "-q", *options, folder / f"{name}-checkpoint")],
                   check=True)
    return convert(folder / f"{name}-checkpoint", folder / name, "--precision", "source", "--mxfp4", "packed")


def is_near(found, expected, relative=2e-5):
    return np.abs(found - expected).max() <= relative * np.abs(expected).max()


# ---------------------------------------------------------------- what is computed

@test
def goldens_of_every_architecture():
    """Logits, experts, greedy tokens, and what is inside; prompts that end within, at and behind a window."""
    with scratch() as folder:
        passes(packed("tiny", folder), "tiny", "--case", "short", "--case", "window", *EXACT)
        for name in ("llama", "mistral"):
            passes(packed(name, folder), name, "--case", "short", *EXACT)


@test
def bfloat16_caches_and_activations():
    """As the reference in BF16; caches and prompts are BF16 unless asked otherwise."""
    with scratch() as folder:
        view = packed("tiny", folder)
        passes(view, "tiny", "--case", "short", "--backend", "cuda")
        passes(view, "tiny", "--case", "text", "--backend", "cuda", "--kv-type", "f32", "--activations", "bf16")


@test
def without_tensor_cores():
    with scratch() as folder:
        passes(packed("tiny", folder), "tiny", "--case", "short", *EXACT, tiles=0)


@test
def odd_shapes_are_the_cpu_s():
    """Heads, experts, hidden and inner sizes that are no multiples of a tile; other types of weights."""
    shapes = {
        "heads": ("--set", "hidden_size=96", "--set", "num_attention_heads=6", "--set", "num_key_value_heads=2",
                  "--set", "head_dim=20", "--set", "sliding_window=5"),
        "experts": ("--set", "num_local_experts=37", "--set", "num_experts_per_tok=7", "--set", "intermediate_size=96",
                    "--set", "hidden_size=160"),
        "f16": ("--dtype", "F16"),
        "f32": ("--dtype", "F32"),
        "llama": ("--arch", "llama", "--set", "hidden_size=100", "--set", "intermediate_size=52"),
        "vocabulary": ("--set", "vocab_size=1091",),
    }
    prompt = np.random.default_rng(3).integers(0, 1000, 13).astype(np.int32)
    with scratch() as folder:
        for name, options in shapes.items():
            view = synth(folder, name, *options)
            how = ("--token-ids", ids(prompt), "-n", 4, *GREEDY)
            expected, cpu = logits_of(view, folder, *how, "--backend", "cpu")
            for tiles in (1, 0):
                found, gpu = logits_of(view, folder, *how, *EXACT, env=harness(tiles=tiles))
                assert found["tokens"] == expected["tokens"] and is_near(gpu, cpu), (name, tiles, np.abs(gpu - cpu).max())


@test
def scales_far_apart_are_the_cpu_s():
    """Scales too large for a BF16 together with what it unpacks: in a layer's gate_up on one weight of a row, which is
    clamped then, in another's down on zeros. The others count all the same."""
    with scratch() as folder:
        tensors, config = read(checkpoint("tiny")), json.loads((checkpoint("tiny") / "config.json").read_text())
        blocks, scales = (tensors[f"model.layers.1.mlp.experts.gate_up_proj_{part}"] for part in ("blocks", "scales"))
        scales -= 4
        for row in (7, 9):
            blocks[:, row, 0], blocks[:, row, 0, 0], scales[:, row, 0] = 0, 1, 254
        blocks, scales = (tensors[f"model.layers.2.mlp.experts.down_proj_{part}"] for part in ("blocks", "scales"))
        blocks[:, 5, 0], scales[:, 5, 0] = 0, 129
        source = write_checkpoint(folder / "checkpoint", tensors, config)
        view = convert(source, folder / "view", "--precision", "source", "--mxfp4", "packed")
        how = ("--token-ids", ids(range(200, 213)), "-n", 3, *GREEDY)
        expected, cpu = logits_of(view, folder, *how, "--backend", "cpu")
        found, gpu = logits_of(view, folder, *how, *EXACT, env=harness())
        assert np.isfinite(cpu).all() and found["tokens"] == expected["tokens"] and is_near(gpu, cpu), np.abs(gpu - cpu).max()


@test
def decoded_experts_are_the_cpu_s():
    with scratch() as folder:
        prompt = next(prompt for case, prompt, *_ in golden_cases("tiny") if case["name"] == "short")[:9]
        for precision in ("bfloat16", "float32"):
            view = convert(checkpoint("tiny"), folder / precision, "--precision", precision)
            how = ("--token-ids", ids(prompt), "-n", 2, *GREEDY)
            _, cpu = logits_of(view, folder, *how, "--backend", "cpu")
            _, gpu = logits_of(view, folder, *how, *EXACT, env=harness())
            assert is_near(gpu, cpu), precision


@test
def the_order_of_threads_changes_no_bit():
    """What a barrier forgot shows as another result."""
    with scratch() as folder:
        view = packed("tiny", folder)
        how = ("--token-ids", ids(range(40, 111)), "-n", 3, *GREEDY, *EXACT)
        _, expected = logits_of(view, folder, *how, env=harness(seed=1))
        for seed in (2, 3, 4):
            _, logits = logits_of(view, folder, *how, env=harness(seed=seed))
            assert np.array_equal(logits, expected), seed


@test
def neighbours_change_no_bit():
    """One token a step, two (whose parts fit one product) or eight; and among many."""
    with scratch() as folder:
        view = packed("tiny", folder)
        text = list(range(300, 308)) + list(range(400, 461))
        for whole, parts in ((8, (1, 2, 7)), (69, (9, 12, 64))):
            _, together = logits_of(view, folder, "--token-ids", ids(text[:whole]), "-n", 1, *GREEDY, *EXACT, env=harness())
            for n in parts:
                _, apart = logits_of(view, folder, "--token-ids", ids(text[:n]), "-n", 1, *GREEDY, *EXACT, env=harness())
                assert np.array_equal(apart, together[:n]), (whole, n)


SAMPLINGS = (  # temperature, top-k, top-p, min-p, repetition penalty
    (0, 0, 1, 0, 1), (1, 0, 1, 0, 1), (2.5, 0, 0.95, 0, 1), (2, 40, 1, 0, 1.5), (0, 0, 1, 0, 1.9), (3, 0, 1, 0.05, 1),
    (1.8, 30, 0.8, 0.02, 1.2),
)


def run_tokens(view, sampling, *options, **settings):
    names = ("--temp", "--top-k", "--top-p", "--min-p", "--repeat-penalty")
    how = [word for pair in zip(names, sampling, strict=True) for word in pair]
    done = subprocess.run([str(word) for word in (TPINFER, "run", view, "--json", "--token-ids", "5,6,7,8,7,300", "--ignore-eos", "--seed",
                                                  2**63 + 9, *how, "--backend", "cuda", *options)],
                          env=harness(**settings), capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["tokens"] if done.returncode == 0 else done.stderr


@test
def the_device_chooses_as_the_host_does():
    """Who writes the logits to a file has them on the host, which chooses then."""
    with scratch() as folder:
        view = packed("tiny", folder)
        for i, sampling in enumerate(SAMPLINGS):
            by_host = run_tokens(view, sampling, "-n", 30, "--logits", folder / f"{i}.npy")
            assert run_tokens(view, sampling, "-n", 30) == by_host and len(by_host) == 30, (sampling, by_host)
        for stop in (("--stop-token", by_host[9]), ("-n", 7), ("-c", 20)):
            device = run_tokens(view, sampling, "-n", 30, *stop)
            assert device == by_host[:len(device)] and 7 <= len(device) < 30, (stop, device)


@test
def the_device_does_choose():
    """It takes a kernel more for each token: with so many launches before one fails, only the host comes through."""
    with scratch() as folder:
        view = packed("tiny", folder)
        few, many = 0, 4096
        while many - few > 1:
            launches = (few + many) // 2
            (folder / "logits.npy").unlink(missing_ok=True)
            enough = isinstance(run_tokens(view, SAMPLINGS[0], "-n", 5, "--logits", folder / "logits.npy", fail=launches), list)
            few, many = (few, launches) if enough else (launches, many)
        assert "an error in a kernel" in run_tokens(view, SAMPLINGS[0], "-n", 5, fail=many + 3)
        assert len(run_tokens(view, SAMPLINGS[0], "-n", 5, fail=many + 4)) == 5


@test
def texts_go_on_by_themselves():
    """Fewer than share a launch, and more; behind windows and their rings; without tensor cores, in pieces."""
    with scratch() as folder:
        view = packed("tiny", folder)
        watched = {"plugin": WATCHED}
        for n, tokens, which, settings in ((1, 70, 1, {}), (3, 4, 6, {}), (8, 4, 3, {}), (9, 2, 6, {}), (11, 3, 6, {"tiles": 0}),
                                           (2, 4, 6, watched)):
            temperature, top_k, top_p, _, penalty = SAMPLINGS[which]
            how = [str(word) for word in (settings.get("plugin", PLUGIN), view, n, tokens, temperature, top_k, top_p, penalty)]
            done = subprocess.run([BUILD / "tests/cuda/decode-texts", *how], env=harness(**settings), capture_output=True, text=True,
                                  check=False)
            assert done.returncode == 0, (how, done.stderr)
            assert len(done.stdout.split("\n")) == 2 * tokens + 1


@test
def no_access_is_out_of_order():
    """Nor out of bounds, nor before the kernel before has ended: all that watch.h looks for, in whole steps; those
    of many tokens have tiles of them behind the first."""
    shapes = {"tiny": (), "llama": ("--arch", "llama", "--set", "hidden_size=100", "--set", "intermediate_size=52"),
              "odd": ("--set", "hidden_size=96", "--set", "num_attention_heads=6", "--set", "num_key_value_heads=2", "--set", "head_dim=20",
                      "--set", "sliding_window=5", "--set", "num_local_experts=37", "--set", "num_experts_per_tok=7")}
    prompt = np.random.default_rng(4).integers(0, 1000, 70).astype(np.int32)
    with scratch() as folder:
        for name, options in shapes.items():
            view = synth(folder, name, *options)
            for tiles, n in ((1, 70), (0, 18)):
                how = ("--token-ids", ids(prompt[:n]), "-n", 3, *GREEDY)
                expected, cpu = logits_of(view, folder, *how, "--backend", "cpu")
                found, gpu = logits_of(view, folder, *how, *EXACT, env=harness(WATCHED, tiles=tiles, seed=tiles + 7))
                assert found["tokens"] == expected["tokens"] and is_near(gpu, cpu), (name, tiles, np.abs(gpu - cpu).max())


# ---------------------------------------------------------------- what goes wrong

def ends(*options, status, says, env, n_lines=1):
    with scratch() as folder:
        done = subprocess.run([str(word) for word in (TPINFER, "run", packed("tiny", folder), "--token-ids", "5,6", "-n", 2,
                                                      *GREEDY, *options)],
                              capture_output=True, text=True, timeout=60, check=False, env=env, stdin=subprocess.DEVNULL)
    assert done.returncode == status and done.stderr.count("\n") == n_lines, done
    for part in says:
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"
    return done


@test
def no_gpu():
    """cuda says why and fails, auto says why and computes, and nobody who did not ask is told."""
    env = harness(fail="open")
    ends("--backend", "cuda", status=1, says=("no device was found",), env=env)
    ends("--backend", "auto", "--json", status=0, says=("computing on the CPU: no device was found",), env=env)
    ends("--json", status=0, says=(), env=env, n_lines=0)
    ends("--backend", "cpu", "--json", status=0, says=(), env=env, n_lines=0)


@test
def no_plugin():
    missing = {**os.environ, "TENSORPORT_CUDA_PLUGIN": "/nowhere/plugin.so"}
    ends("--backend", "cuda", status=1, says=("/nowhere/plugin.so",), env=missing)
    wrong = {**os.environ, "TENSORPORT_CUDA_PLUGIN": "libm.so.6"}
    ends("--backend", "cuda", status=1, says=("libm.so.6: no plugin of tpinfer",), env=wrong)
    ends("--json", status=0, says=("computing on the CPU: libm.so.6",), env=wrong)


@test
def too_little_memory():
    ends("--backend", "cuda", status=1, says=("harness", "the weights take 2.0 MB", "100 kB are free"), env=harness(memory=100000))
    ends("--json", status=0, says=("computing on the CPU: harness: the weights take",), env=harness(memory=100000))


@test
def a_device_that_fails():
    """At the first kernel, in the middle, and in a later step."""
    for launches in (0, 9, 40):
        ends("--backend", "cuda", status=1, says=("an error in a kernel",), env=harness(fail=launches))


@test
def what_is_for_the_cpu():
    ends("--backend", "cuda", "--dense", "int8", status=1, says=("--dense int8 is for the CPU",), env=harness())


if __name__ == "__main__":
    main()
