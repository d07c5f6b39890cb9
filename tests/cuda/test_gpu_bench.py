"""What measures a GPU, without one: `tpinfer bench --backend cuda` on the harness, its stages, and bench/gpu
from end to end on a tiny model. That figures belong together and to the model; how fast it is, is nothing for a
test."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "infer"))

from run_support import TPINFER, packed  # noqa: E402
from support import BUILD, KIT, convert, main, scratch, test  # noqa: E402

PLUGIN = BUILD / "tests/cuda/tensorport-cuda-harness.so"
KERNELS = BUILD / "tests/cuda/test-kernels"
SCRIPT = Path(__file__).resolve().parents[2] / "bench/gpu"
MOST = 280  # seconds
COUNTED = ("steps", "tokens", "dense_bytes", "expert_bytes", "cache_bytes", "multiply_adds", "experts", "lengths")


def harness(**settings):
    """The environment of a machine with that device."""
    return {**os.environ, "TENSORPORT_CUDA_PLUGIN": str(PLUGIN),
            **{f"TENSORPORT_HARNESS_{name.upper()}": str(value) for name, value in settings.items()}}


def tpinfer(*arguments, env=None):
    """Without what the address sanitizer says of the harness's fibers."""
    done = subprocess.run([str(word) for word in (TPINFER, *arguments)], capture_output=True, text=True, timeout=MOST,
                          check=False, stdin=subprocess.DEVNULL, env=env or harness())
    done.stderr = re.sub(r"==\d+==WARNING: ASan doesn't fully support makecontext.*\n", "", done.stderr)
    return done


def bench(view, *options, backend="cuda", **settings):
    """What it says as JSON."""
    done = tpinfer("bench", view, "--json", "-", "--backend", backend, *options, env=harness(**settings))
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def refused(view, *options, status=1, says=(), **settings):
    done = tpinfer("bench", view, *options, env=harness(**settings))
    assert done.returncode == status and done.stderr.count("\n") == 1, done
    for part in says:
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"
    return done


def synth(folder, name, *options):
    subprocess.run([BUILD / "tensorport", "synth", "-q", *options, folder / f"{name}-checkpoint"], check=True)
    return convert(folder / f"{name}-checkpoint", folder / name, "--precision", "source", "--mxfp4", "packed")


# ---------------------------------------------------------------- cases

@test
def counts_are_the_cpu_s():
    """Bytes, products and experts of a batch, though only the first run is traced."""
    with scratch() as folder:
        view = packed("tiny", folder)
        options = ("-p", "3", "-d", "5", "-b", "1,3", "-n", 2, "-r", 2, "--kv-type", "f32")
        gpu, cpu = bench(view, *options), bench(view, *options, backend="cpu")
        assert len(gpu["cases"]) == 4
        for found, expected in zip(gpu["cases"], cpu["cases"], strict=True):
            for key in COUNTED:
                assert found[key] == expected[key], (found["case"], key, found[key], expected[key])
            seconds = np.array(found["all_seconds"])
            limits = np.array(found["all_read_gb_per_second"])
            assert np.isclose(found["bandwidth_share"], np.median(found["bytes"] / 1e9 / seconds / limits))
        settings = gpu["settings"]
        assert (settings["backend"], settings["device"], settings["instructions"]) == ("cuda", "harness", "sm_90")
        assert settings["multiprocessors"] == 2 and "threads" not in settings and cpu["settings"]["device"] is None
        assert gpu["limits"]["read_small_pages_gb_per_second"] is None and gpu["limits"]["read_gb_per_second"] > 0
        assert cpu["limits"]["read_small_pages_gb_per_second"] > 0


@test
def tables_speak_of_a_gpu():
    with scratch() as folder:
        view = packed("tiny", folder)
        options = ("bench", view, "-p", 2, "-n", 0, "-r", 1, "--csv", folder / "a.csv", "--json", folder / "a.json",
                   "--backend", "cuda")
        lines = {tiles: tpinfer(*options, env=harness(tiles=tiles)).stdout.splitlines() for tiles in (1, 0)}
        for head, multiplies in ((lines[1][0], True), (lines[0][0], False)):
            assert head.startswith("harness, 2 multiprocessors, sm_90: copies ") and "pages" not in head, head
            assert ("multiplies" in head) == multiplies, head
        (row,) = csv.DictReader(io.StringIO((folder / "a.csv").read_text()))
        assert row["peak_gflop_per_second"] == row["peak_share"] == "" and float(row["bandwidth_share"]) > 0
        assert json.loads((folder / "a.json").read_text())["limits"]["gflop_per_second"] is None


@test
def the_peak_of_products_is_of_what_they_are_made_of():
    """Activations in float32 are three parts, each a product. The harness's own speed varies: a wide margin."""
    with scratch() as folder:
        view = packed("tiny", folder)
        rates = {kind: max(bench(view, "-p", 1, "-n", 0, "-r", 1, "--activations", kind)["limits"]["gflop_per_second"]
                           for _ in range(3)) for kind in ("f32", "bf16")}
        assert 1.5 < rates["bf16"] / rates["f32"] < 6, rates


@test
def memory_is_the_device_s():
    with scratch() as folder:
        view = packed("tiny", folder)
        refused(view, "--backend", "cuda", "-p", 100_000, "-b", 64, says=("64 texts", "of the GPU's memory", "--batch"),
                memory=1 << 28)
        small = bench(view, "-p", 2, "-n", 0, "-r", 1, "-c", 16, memory=20_000_000)
        assert small["limits"]["read_gb_per_second"] > 0


@test
def a_device_that_fails_ends_it_in_one_line():
    with scratch() as folder:
        view = packed("tiny", folder)
        for launches in (30, 60):
            refused(view, "--backend", "cuda", "-p", 0, "-n", 2, "-r", 1, says=("an error in a kernel",), fail=launches)
        for launches in (25, 60, 90):
            refused(view, "--backend", "cuda", "--stages", says=("an error in a kernel",), fail=launches)


# ---------------------------------------------------------------- stages

def stages_of(view, *options):
    """{(batch, depth): {name: stage}}"""
    whole = bench(view, "--stages", *options)
    assert whole["cases"] == []
    for case in whole["stages"]:
        for stage in case["stages"]:
            rate = stage["bytes"] / stage["seconds"] / 1e9
            assert np.isclose(rate, stage["gb_per_second"]) and np.isclose(rate / case["copy_gb_per_second"], stage["share"])
            assert stage["seconds"] > 0 and stage["bytes"] > 0, stage
        names = [stage["stage"] for stage in case["stages"]]
        assert names[0] == "embed" and names[-2:] == ["head", "step"] and len(set(names)) == len(names)
    return {(case["batch"], case["depth"]): {stage["stage"]: stage for stage in case["stages"]} for case in whole["stages"]}


@test
def stages_read_what_a_step_reads():
    """All of them together: the bytes that a decode of the same depth counts. And nothing is left out or twice."""
    with scratch() as folder:
        for name, n_layers, depth in (("tiny", 4, 140), ("llama", 4, 5)):
            view = packed(name, folder)
            (stages,) = stages_of(view, "-d", depth, "--kv-type", "bf16").values()
            (case,) = bench(view, "-p", 0, "-d", depth, "-n", 1, "-r", 1, "-w", 0, backend="cpu",
                            *("--kv-type", "bf16"))["cases"]
            *parts, step = stages.values()
            assert sum(stage["bytes"] for stage in parts) == step["bytes"] == case["bytes"], (step, case["bytes"])
            assert sum(stage["launches"] for stage in parts) == step["launches"] == 2 + 5 * n_layers, step
            windows = stages.get("attend_window", {"launches": 0})["launches"]
            assert windows == (n_layers // 2 if name == "tiny" else 0)


@test
def stages_of_several_texts():
    """Weights once, caches each, experts as many as are chosen together."""
    with scratch() as folder:
        view = packed("tiny", folder)
        found = {**stages_of(view, "-b", "1,4", "-d", 3), **stages_of(view, "-d", 9)}
        assert list(found) == [(1, 3), (4, 3), (1, 9)]
        one, four, deep = found[1, 3], found[4, 3], found[1, 9]
        assert one["heads"]["bytes"] == four["heads"]["bytes"] and one["head"]["bytes"] == four["head"]["bytes"]
        sinks = 2 * 4 * json.loads((view / "config.json").read_text())["num_attention_heads"]
        assert four["attend"]["bytes"] - sinks == 4 * (one["attend"]["bytes"] - sinks)
        assert deep["attend"]["bytes"] - sinks == (one["attend"]["bytes"] - sinks) * 10 / 4
        experts = four["gate_up"]["bytes"] / one["gate_up"]["bytes"] * 4
        assert experts == int(experts) and 4 <= experts <= 8


@test
def stages_that_cannot_be():
    with scratch() as folder:
        view = packed("tiny", folder)
        refused(view, "--stages", "--backend", "cpu", says=("--stages is for a GPU", "--backend cuda"))
        refused(view, "--stages", "--backend", "cuda", "-b", 9, says=("1 to 8", "9"))
        refused(view, "--stages", "--backend", "cuda", "-d", 200_000, says=("200000", "131072"))
        refused(view, "--stages", "--backend", "cuda", "-d", 100_000, says=("no memory",), memory=20_000_000)
        for option in ("--tokens=3", "--prompt-lengths=3", "--csv=-", "--repeat=2", "--prompts=x"):
            refused(view, "--stages", option, status=2, says=(option.split("=")[0], "--stages"))


# ---------------------------------------------------------------- against the CPU

@test
def logits_are_held_to_the_cpu_s():
    with scratch() as folder:
        view = packed("tiny", folder)
        def against(*options):
            return tpinfer("validate", view, KIT / "goldens/tiny", "--case", "one", "--backend", "cuda", "--against", "cpu",
                           "--tolerance", "1e-5", *options)
        done = against("--kv-type", "f32", "--activations", "f32", "--json")
        whole = json.loads(done.stdout)
        assert done.returncode == 0 and whole["ok"] and whole["engine"]["judged"] == "against cpu", done
        assert 0 < whole["all"]["logits"]["largest"] < 1e-4, "two engines are not the same bit for bit"
        rounded = against("--activations", "bf16")
        assert rounded.returncode == 1 and "logits: off by up to" in rounded.stderr, rounded


# ---------------------------------------------------------------- bench/gpu

def script(*arguments, folder, env=None, program=SCRIPT, timeout=MOST):
    """Runs it, with a scratch of its own, which it must leave empty."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False,
                          stdin=subprocess.DEVNULL, cwd=folder, env={**(env or harness()), "TMPDIR": str(temporary)})
    assert list(temporary.iterdir()) == [], done
    return done


@test
def bench_gpu_from_end_to_end():
    with scratch() as folder:
        done = script("--small", BUILD, "out", folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        about = json.loads((folder / "out/about.json").read_text())
        verdicts = {name: part["verdict"] for name, part in about["parts"].items()}
        assert list(verdicts) == ["kernels", "goldens", "edges", "cpu", "sanitizer", "large", "stages", "prefill", "decode", "deep", "torch"]
        kernels = about["parts"]["kernels"]
        assert (kernels["passed"], kernels["failed"], kernels["left_out"]) == (4, 0, 0), kernels
        for name, verdict in verdicts.items():
            assert verdict == "ok" or (name in ("sanitizer", "torch") and verdict.startswith("not done: ")), (name, verdict)
        assert about["small"] is True and about["plugin"] == str(PLUGIN) and about["commit"] and about["date"].endswith("Z")
        cases = [case["case"] for name in ("prefill", "decode", "deep-16-1")
                 for case in json.loads((folder / f"out/{name}.json").read_text())["cases"]]
        assert cases == ["prefill", "decode", "decode", "decode"]
        assert len(json.loads((folder / "out/stages.json").read_text())["stages"]) == 2
        assert (folder / "out/summary.txt").read_text() == done.stdout
        for says in ("0 failures", "gate_up", "decode after 3", "== large: ok"):
            assert says in done.stdout, says


@test
def bench_gpu_counts_tests_of_kernels():
    """What fails, what a device has no tensor cores for, and what ends before its time."""
    def about(name, plugin=PLUGIN, **settings):
        env = {**harness(**settings), "TENSORPORT_CUDA_PLUGIN": str(plugin)}
        done = script("--small", "--only=kernels", BUILD, name, folder=folder, env=env)
        return done, json.loads((folder / name / "about.json").read_text())["parts"]["kernels"]
    with scratch() as folder:
        done, part = about("without", tiles=0)
        assert done.returncode == 0 and "3 passed, 0 failed, 1 left out" in done.stdout, done
        assert (part["verdict"], part["passed"], part["left_out"]) == ("ok", 3, 1), part
        beside = folder / "beside"
        beside.mkdir()
        (beside / PLUGIN.name).symlink_to(PLUGIN)
        for last, status, verdict, counts in (("exit 1", 1, "FAILED", (1, 2)), ("kill -INT $$", 1, "FAILED", (1, 2))):
            (beside / KERNELS.name).write_text(f"#!/bin/sh\necho ok 1 - a\necho not ok 2 - b\necho '# why'\necho not ok 3 - c\n{last}\n")
            (beside / KERNELS.name).chmod(0o755)
            done, part = about("failing", plugin=beside / PLUGIN.name)
            assert done.returncode == status and "# why" in done.stdout and part["verdict"] == verdict, (done, part)
            assert (part["passed"], part["failed"]) == counts, part
        (beside / KERNELS.name).unlink()
        done, part = about("missing", plugin=beside / PLUGIN.name)
        assert done.returncode == 0 and part["verdict"].startswith("not done: there is no "), (done, part)


@test
def kernels_without_a_gpu():
    """The tests of kernels, which know the device by the same interface: one line, and 77."""
    done = subprocess.run([KERNELS], capture_output=True, text=True, timeout=MOST, check=False, env=harness(fail="open"))
    assert (done.returncode, done.stdout, done.stderr) == (77, "1..0 # skipped: no device was found\n", ""), done
    done = subprocess.run([KERNELS, "head_at_edges"], capture_output=True, text=True, timeout=MOST, check=False, env=harness(fail=3))
    assert done.returncode == 1 and "Bail out!" in done.stdout and "an error in a kernel" in done.stdout, done
    done = subprocess.run([KERNELS, "nothing"], capture_output=True, text=True, timeout=MOST, check=False, env=harness())
    assert done.returncode == 2 and done.stderr == "nothing: no test of that name\n", done


@test
def bench_gpu_without_a_gpu():
    """One line, 77; and 1 when there is one that cannot be used, or a plugin that is none."""
    with scratch() as folder:
        for env, status, says in ((harness(fail="open"), 77, "no device was found"), (harness(fail=3), 1, "an error in a kernel"),
                                  (harness(memory=1000), 1, "are free"),
                                  ({**os.environ, "TENSORPORT_CUDA_PLUGIN": "/nowhere.so"}, 1, "/nowhere.so")):
            done = script(BUILD, "out", folder=folder, env=env)
            assert done.returncode == status and done.stdout.count("\n") == 1 and done.stderr == "", done
            assert says in done.stdout and not (folder / "out").exists(), done


@test
def bench_gpu_tells_what_fails():
    with scratch() as folder:
        done = script("--small", "--only=cpu,decode", BUILD, "out", folder=folder, env=harness(fail=40))
        verdicts = {name: part["verdict"] for name, part in json.loads((folder / "out/about.json").read_text())["parts"].items()}
        assert done.returncode == 1 and verdicts == {"cpu": "FAILED", "decode": "FAILED"}, done
        assert "an error in a kernel" in done.stdout and "0 of 2 cases are done" in done.stdout, done


@test
def bench_gpu_leaves_nothing_when_it_is_ended():
    with scratch() as folder:
        (folder / "temporary").mkdir()
        process = subprocess.Popen([SCRIPT, "--small", "--only=stages", BUILD, "out"], cwd=folder, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env={**harness(), "TMPDIR": str(folder / "temporary")},
                                   start_new_session=True)
        try:
            for line in process.stdout:
                if line.startswith("$ tpinfer bench"):
                    break
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert process.returncode != 0 and list((folder / "temporary").iterdir()) == [], process.returncode


@test
def bench_gpu_has_time_limits():
    """What there is no time for is said, and no failure: the goldens of all models take the harness minutes."""
    with scratch() as folder:
        quick = folder / "gpu"
        quick.write_text(SCRIPT.read_text().replace("60 * minutes - 15", "60 * minutes - 57"))
        quick.chmod(0o755)
        tree = folder / "tree"
        tree.mkdir()
        for name in ("tpinfer", "tensorport"):
            (tree / name).symlink_to(BUILD / name)
        (tree / "goldens").symlink_to(KIT / "goldens")
        start = time.monotonic()
        done = script("--minutes=1", "--only=goldens,torch", tree, "out", folder=folder, program=quick)
        assert done.returncode == 0 and "== goldens: time was up" in done.stdout, done
        assert time.monotonic() - start < 30


@test
def bench_gpu_goes_to_a_bare_machine():
    """What --pack collects runs by itself, in a place of its own, with nothing in the environment."""
    with scratch() as folder:
        tree = folder / "tree"
        tree.mkdir()
        for name in ("tpinfer", "tensorport"):
            (tree / name).symlink_to(BUILD / name)
        done = script("--pack", tree, "packed", folder=folder)
        assert done.returncode == 1 and "tensorport-cuda.so" in done.stderr and not (folder / "packed").exists(), done
        (tree / "tensorport-cuda.so").symlink_to(PLUGIN)
        done = script("--pack", tree, "packed", folder=folder)
        assert done.returncode == 1 and "test-kernels-cuda" in done.stderr and not (folder / "packed").exists(), done
        (tree / "tests/cuda").mkdir(parents=True)
        (tree / "tests/cuda/test-kernels-cuda").symlink_to(KERNELS)
        done = script("--pack", tree, "packed", folder=folder)
        assert done.returncode == 0, done
        again = script("--pack", tree, "packed", folder=folder)
        assert again.returncode == 1 and "is there already" in again.stderr, again
        shutil.rmtree(tree)
        names = {path.name for path in (folder / "packed/lib").iterdir()}
        assert any(name.startswith("libcjson") for name in names) and not any(name.startswith("libc.so") for name in names)
        assert not any(path.is_symlink() for path in (folder / "packed").rglob("*"))
        done = script("--small", "--only=kernels,cpu", "packed", folder=folder, program=folder / "packed/gpu",
                      env={"PATH": os.environ["PATH"]})
        assert done.returncode == 0 and "== cpu: ok" in done.stdout and "== kernels: ok" in done.stdout, done
        about = json.loads((folder / "gpu-results/about.json").read_text())
        assert about["commit"] == (folder / "packed/COMMIT").read_text().strip()


@test
def mistakes_on_its_command_line():
    with scratch() as folder:
        for words, says in (((), "expected BUILD"), (("a", "b", "c"), "3 words"), (("--speed", BUILD), "--speed"),
                            (("--minutes=0", BUILD), "--minutes"), (("--only=cpu,gpu", BUILD), "\"gpu\""),
                            ((folder / "none",), "no such folder"), ((folder,), "tpinfer"), (("--pack", BUILD), "FOLDER"),
                            (("--view-20b=/nowhere", BUILD), "/nowhere")):
            done = script(*words, folder=folder)
            assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, (words, done)
        assert "--pack" in script("--help", folder=folder).stdout


if __name__ == "__main__":
    main()
