"""Bringing a model to the GPU: what arrives, what memory it takes and what is told when there is too
little, what can go wrong on the way; and sessions in files, which either backend goes on with. On the
harness, whose copies are made as late as they may be."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "infer"))

from run_support import TPINFER, ids, logits_of, packed, run_json  # noqa: E402
from support import BUILD, Mount, checkpoint, convert, main, read, scratch, test, wait_for, write_view  # noqa: E402

PLUGIN = BUILD / "tests/cuda/tensorport-cuda-harness.so"
SESSION_FILE = BUILD / "tests/infer/session-file"
GREEDY = ("--temp", 0, "--ignore-eos")
CUDA = ("--backend", "cuda")
EXACT = (*CUDA, "--kv-type", "f32", "--activations", "f32")
SHORT = ("--token-ids", "5,6,7", "-n", 2, *GREEDY)
TIMEOUT = 120


def harness(**settings):
    """The environment of a machine with that device."""
    return {**os.environ, "TENSORPORT_CUDA_PLUGIN": str(PLUGIN),
            **{f"TENSORPORT_HARNESS_{name.upper()}": str(value) for name, value in settings.items()}}


def words(*arguments):
    return [str(word) for word in arguments]


def run(view, *options, env):
    return subprocess.run(words(TPINFER, "run", view, *SHORT, *options), capture_output=True, text=True, timeout=TIMEOUT,
                          check=False, env=env, stdin=subprocess.DEVNULL)


def refused(view, *options, says, env):
    """One line, exit 1; gives the line."""
    done = run(view, *options, env=env)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    for part in says:
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"
    return done.stderr


def falls_back(view, *options, says, env):
    """Under auto the CPU computes, after one line; what it computes is the CPU's."""
    done = run(view, *options, "--backend", "auto", "--json", env=env)
    assert done.returncode == 0 and done.stderr.count("\n") == 1, done
    for part in ("computing on the CPU: ", *says):
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"
    cpu = run(view, *options, "--backend", "cpu", "--json", env=env)
    assert tokens(done) == tokens(cpu) and cpu.stderr == ""


def tokens(done):
    return re.search(r'"tokens":\s*\[[^]]*\]', done.stdout)[0]


def synth(folder, name, *options):
    """A packed view of a checkpoint of that shape."""
    subprocess.run(words(BUILD / "tensorport", "synth", "-q", *options, folder / f"{name}-checkpoint"), check=True)
    return convert(folder / f"{name}-checkpoint", folder / name, "--precision", "source", "--mxfp4", "packed")


def is_near(found, expected, relative=2e-5):
    return np.abs(found - expected).max() <= relative * np.abs(expected).max()


def long_view(folder):
    """26 MB, so that every piece of the ring is filled several times."""
    return synth(folder, "long", "--set", "vocab_size=50003", "--set", "num_hidden_layers=2")


# ---------------------------------------------------------------- what arrives

@test
def every_byte_arrives():
    """Whatever the number of readers: a piece that is filled again too early would show."""
    with scratch() as folder:
        view = long_view(folder)
        prompt = ids((1, 50002, 25000, 12345, 40000, 3333))  # rows from all over the embedding
        how = ("--token-ids", prompt, "-n", 1, *GREEDY)
        _, cpu = logits_of(view, folder, *how, "--backend", "cpu")
        for threads in (1, 2, 3, 16):
            _, gpu = logits_of(view, folder, *how, *EXACT, "--threads", threads, env=harness())
            assert is_near(gpu, cpu), (threads, np.abs(gpu - cpu).max())


def with_scales(folder, source, changes):
    """A view of the checkpoint with scales {(layer, "gate_up" or "down", place): scale}. What has 255, NaN, is in an
    expert that nobody chooses: the last one."""
    tensors = read(source)
    for (layer, part, place), scale in changes.items():
        mlp = f"model.layers.{layer}.mlp"
        name = f"{mlp}.experts.{part}_proj_scales"
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1)[place] = scale
        if scale == 255:
            tensors[f"{mlp}.router.bias"] = tensors[f"{mlp}.router.bias"].copy()
            tensors[f"{mlp}.router.bias"][-1] = -100
    return write_view(folder, tensors, json.loads((source / "config.json").read_text()))


@test
def the_largest_scale_is_found():
    """Weights whose exponents an unpacked nibble has no room for: in the first, the last and some other block, and
    in arrays that no vector divides; and beside 255, which is NaN and no scale."""
    with scratch() as folder:
        synth(folder, "odd", "--set", "num_local_experts=3", "--set", "num_experts_per_tok=3", "--set", "hidden_size=32",
              "--set", "intermediate_size=32", "--set", "num_hidden_layers=2")
        views = (with_scales(folder / "a", checkpoint("tiny"), {(0, "gate_up", 0): 136, (1, "gate_up", -1): 137,
                                                                (2, "down", 1234): 133, (3, "gate_up", -1): 255}),
                 with_scales(folder / "b", folder / "odd-checkpoint", {(0, "down", -1): 140}))
        for view in views:
            how = ("--token-ids", "5,6,7,8", "-n", 1, *GREEDY)
            out, cpu = logits_of(view, folder, *how, "--backend", "cpu")
            assert np.isfinite(cpu).all()
            for tiles in (1, 0):
                found, gpu = logits_of(view, folder, *how, *EXACT, env=harness(tiles=tiles))
                assert found["tokens"] == out["tokens"] and is_near(gpu, cpu), (view, tiles, np.abs(gpu - cpu).max())


@test
def a_mount_is_loaded():
    """The backend reads the mounted files itself."""
    with scratch() as folder, Mount(checkpoint("tiny")) as mount:
        expected, cpu = logits_of(mount.path, folder, *SHORT, "--backend", "cpu")
        found, gpu = logits_of(mount.path, folder, *SHORT, *EXACT, env=harness())
        assert found["tokens"] == expected["tokens"] and is_near(gpu, cpu)


def on_terminal(*arguments, env, go_on=None):
    """What is written to a terminal as standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, env=env)
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.05)[0]:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the last writer has closed it
                break
            if not part:
                break
            shown += part
        if go_on is not None and b"loading" in shown:
            go_on()
            go_on = None
    os.close(ours)
    assert process.wait(10) == 0, shown
    return shown.decode()


class Held:
    """A device that waits before it is given anything until told to go on."""

    def __init__(self, folder):
        self.fifo = folder / "hold"
        os.mkfifo(self.fifo)
        self.env = harness(hold=self.fifo)

    def go_on(self, what=lambda: None):
        """Does `what` while it waits, at the latest."""
        fd = wait_for(self._open, "the device to be opened")
        what()
        os.close(fd)

    def _open(self):
        try:
            return os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            return None


@test
def a_terminal_sees_a_bar():
    with scratch() as folder:
        device = Held(folder)
        shown = on_terminal(TPINFER, "run", packed("tiny", folder), *SHORT, "-q", *CUDA, env=device.env, go_on=device.go_on)
        assert re.match(r"\r  0%  0 bytes of 2\.\d MB .*loading", shown) and shown.endswith("\r\x1b[K"), shown


# ---------------------------------------------------------------- memory

def figures(line):
    """(weights, workspace, cache) of the line as printed, and the context that would fit, or 0."""
    match = re.search(r"harness: the weights take (\S+ \w+), the workspace (\S+ \w+), keys and values of \d+ tokens (\S+ \w+): "
                      r"\S+ \w+ in all, \S+ \w+ are free; (?:--context (\d+)|no --context) would fit", line)
    assert match, line
    return match.groups()[:3], int(match[4] or 0)


@test
def too_little_memory_for_each_part():
    """Each time with all figures, before anything is copied; the context that is named is the largest that fits."""
    with scratch() as folder:
        view = packed("tiny", folder)
        for memory, fits in ((1000, False), (5_000_000, False), (6_500_000, True), (9_000_000, True)):
            env = harness(memory=memory)
            line = refused(view, *CUDA, says=(), env=env)
            (weights, workspace, cache), context = figures(line)
            assert weights == "2.0 MB" and workspace == "3.8 MB" and cache == "4.8 MB" and bool(context) == fits, line
            falls_back(view, says=("the weights take 2.0 MB",), env=env)
            if fits:
                run_json(view, *SHORT, *CUDA, "--context", context, env=env)
                line = refused(view, *CUDA, "--context", context + 1, says=(f"{context + 1} tokens",), env=env)
                assert figures(line)[1] == context, (context, line)
        f32 = figures(refused(view, *EXACT, says=(), env=harness(memory=9_000_000)))[0]
        assert f32[2] == "9.7 MB", f32


@test
def contexts_of_any_size():
    """The workspace is for the context that is asked for, also beyond the model's own; and what cannot be counted
    is refused."""
    with scratch() as folder:
        view = synth(folder, "short", "--arch", "llama", "--set", "max_position_embeddings=64", "--set", "num_hidden_layers=1")
        how = ("--token-ids", ids([7 + i % 900 for i in range(450)]), "-n", 1, *GREEDY, "--context", 460)
        expected, cpu = logits_of(view, folder, *how, "--backend", "cpu")
        found, gpu = logits_of(view, folder, *how, *EXACT, env=harness())
        assert found["tokens"] == expected["tokens"] and is_near(gpu, cpu), np.abs(gpu - cpu).max()
        assert figures(refused(view, *CUDA, "--context", 4_000_000, says=("4000000 tokens",), env=harness()))[1] > 100_000
        refused(view, *CUDA, "--context", 4_294_967_295, says=("--context",), env=harness())


# ---------------------------------------------------------------- what goes wrong

def disappears(view, what, backend):
    """`what` happens when the view is open and nothing has been read."""
    with scratch() as folder:
        device = Held(folder)
        process = subprocess.Popen(words(TPINFER, "run", view, *SHORT, "--backend", backend), env=device.env, text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            device.go_on(what)
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    assert (process.returncode, out, err.count("\n")) == (1, "", 1), (process.returncode, out, err)
    assert "disappeared or was truncated while it was in use" in err, err


@test
def a_view_that_disappears():
    """A file that is cut short, and a mount whose daemon ends, between opening and reading."""
    for backend in ("cuda", "auto"):
        with scratch() as folder:
            view = packed("tiny", folder)
            path, = view.glob("shard_*/model_layers_2_mlp_experts_down_proj_blocks.npy")
            disappears(view, lambda path=path: os.truncate(path, 4096), backend)
    with Mount(checkpoint("tiny")) as mount:
        mount.expected_status = None
        disappears(mount.path, mount.kill, "cuda")


@test
def copies_and_allocations_that_fail():
    """The first, some in the middle, and the last; whoever falls back computes the CPU's."""
    with scratch() as folder:
        view, tiny = long_view(folder), packed("tiny", folder)
        for n in (0, 1, 3, 5):
            env = harness(fail=f"upload:{n}")
            refused(view, *CUDA, says=("loading the weights: harness: an error in a copy",), env=env)
        falls_back(view, says=("loading the weights: harness: an error in a copy",), env=harness(fail="upload:4"))
        refused(tiny, *CUDA, says=("harness: an error in a copy",), env=harness(fail="upload:1"))  # the first step's
        for n, what in enumerate(("loading the weights", "the workspace", "keys and values of 4096 tokens")):
            refused(tiny, *CUDA, says=(f"{what}: harness: no memory for ",), env=harness(fail=f"allocate:{n}"))
        for n in range(4):  # two pieces, a step's inputs, logits
            refused(tiny, *CUDA, says=("cannot lock",), env=harness(fail=f"allocate_host:{n}"))
        refused(view, *CUDA, "--threads", 4, says=("cannot lock",), env=harness(fail="allocate_host:5"))
        falls_back(tiny, says=("the workspace: harness: no memory",), env=harness(fail="allocate:1"))


@test
def a_plugin_of_another_tpinfer():
    other = {**os.environ, "TENSORPORT_CUDA_PLUGIN": str(BUILD / "tests/cuda/other-plugin.so")}
    with scratch() as folder:
        view = packed("tiny", folder)
        line = refused(view, *CUDA, says=("other-plugin.so: made for another tpinfer: expected interface ",), env=other)
        expected, found = map(int, re.search(r"interface (\d+), found (\d+)", line).groups())
        assert found == expected + 1
        falls_back(view, says=("made for another tpinfer",), env=other)


@test
def what_the_gpu_has_no_kernel_for():
    with scratch() as folder:
        shapes = {"experts": ("--set", "num_local_experts=1000", "--set", "hidden_size=32", "--set", "intermediate_size=32",
                              "--set", "num_hidden_layers=1"),
                  "heads": ("--arch", "llama", "--set", "num_attention_heads=256", "--set", "num_key_value_heads=1",
                            "--set", "head_dim=128", "--set", "num_hidden_layers=1")}
        for name, options in shapes.items():
            view = synth(folder, name, *options)
            refused(view, *CUDA, says=("harness: a block has ", name, "give --backend cpu"), env=harness())
            falls_back(view, says=(name,), env=harness())
        refused(packed("tiny", folder), *CUDA, "--dense", "int8", says=("--dense int8 is for the CPU",), env=harness())


def quantised(folder, name, *patterns):
    """The packed view of a Llama with weights in MXFP4."""
    for source, out, options in ((checkpoint("llama"), folder / f"{name}-model", ("--quantize", "mxfp4", *patterns)),
                                 (folder / f"{name}-model", folder / name, ("--precision", "source", "--mxfp4", "packed"))):
        subprocess.run(words(BUILD / "tensorport", "convert", source, out, "-q", *options), check=True, timeout=TIMEOUT,
                       stderr=subprocess.DEVNULL)
    return folder / name


@test
def dense_weights_in_mxfp4():
    """MLPs have kernels for it; where attention or the head is MXFP4, too, the CPU computes."""
    with scratch() as folder:
        view = quantised(folder, "mlp", "--include", "*.mlp.*")
        exact = ("--kv-type", "f32", "--activations", "f32")
        _, on_gpu = logits_of(view, folder, "--token-ids", ids(range(5, 45)), "-n", 4, *GREEDY, *EXACT, env=harness())
        _, on_cpu = logits_of(view, folder, "--token-ids", ids(range(5, 45)), "-n", 4, *GREEDY, *exact, "--backend", "cpu")
        assert np.abs(on_gpu - on_cpu).max() < 1e-4 * np.abs(on_cpu).max()
        for name, pattern in (("all", "*_proj.weight"), ("head", "lm_head.weight"), ("embedding", "*embed*")):
            view = quantised(folder, name, "--include", pattern)
            refused(view, *CUDA, says=("is MXFP4", "give --backend cpu"), env=harness())
            falls_back(view, says=("is MXFP4",), env=harness())


# ---------------------------------------------------------------- sessions in files

def session(*arguments, plugin=True):
    done = subprocess.run(words(SESSION_FILE, *arguments, *([PLUGIN] if plugin else [])), capture_output=True, timeout=TIMEOUT,
                          check=False, env=harness())
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return np.frombuffer(done.stdout, np.float32).reshape(40, -1)


@test
def a_session_goes_on_with_the_same_bits():
    """In and beyond the rings of layers with windows; BF16 and float32; into a larger context."""
    with scratch() as folder:
        for name, n, kind in (("tiny", 140, "bf16"), ("mistral", 80, "f32"), ("llama", 1, "bf16")):
            view, file = packed(name, folder), folder / "session"
            expected = session("save", view, file, n, kind, 8)
            found = session("load", view, file, n + 100, kind, 3)
            assert np.array_equal(found, expected), (name, n, kind)


@test
def either_backend_goes_on_with_the_other_s_session():
    """Beyond the rings, which are not of one size."""
    with scratch() as folder:
        view, n = packed("tiny", folder), 140
        files = folder / "cpu-session", folder / "gpu-session"
        cpu = session("save", view, files[0], n, "f32", 512, plugin=False)
        gpu = session("save", view, files[1], n, "f32", 8)
        assert is_near(gpu, cpu)
        for found in (session("load", view, files[0], n + 60, "f32", 8),
                      session("load", view, files[1], n + 60, "f32", 512, plugin=False)):
            assert is_near(found, cpu) and (found.argmax(1) == cpu.argmax(1)).all(), np.abs(found - cpu).max()


def chat(view, *lines, backend, status=0):
    done = subprocess.run(words(TPINFER, "chat", view, "-n", 12, "--temp", 0, "--kv-type", "f32", "--context", 600,
                                "--backend", backend), input="".join(f"{line}\n" for line in lines), capture_output=True,
                          text=True, timeout=TIMEOUT, check=False, env=harness())
    assert done.returncode == status, done
    return done


@test
def chats_are_kept_and_gone_on_with():
    """/save by one, /load by the other: the same answers, and nothing is read again."""
    with scratch() as folder:
        view = packed("tiny", folder)
        expected = chat(view, "hello there", "and a test", backend="cpu").stdout.splitlines()
        for saver, loader in (("cuda", "cpu"), ("cpu", "cuda")):
            file = folder / f"{saver}-{loader}"
            first = chat(view, "hello there", f"/save {file}", backend=saver)
            second = chat(view, f"/load {file}", "and a test", "/stats", backend=loader)
            assert "saved: " in first.stderr and "loaded: " in second.stderr
            answers = first.stdout.splitlines() + second.stdout.splitlines()
            assert answers[:len(expected)] == expected, (saver, loader, answers, expected)
            kept = int(re.search(r"(\d+) of them kept", second.stdout)[1])
            assert kept > 20, second.stdout


if __name__ == "__main__":
    main()
