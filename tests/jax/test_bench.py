"""bench/jax from end to end on the tiny model: what it measures is of no interest here, but that it does,
says what failed, and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

from jax_support import BUILD, main, scratch, test

TOP = Path(__file__).resolve().parents[2]

PARTS = ("--lengths", "16", "--tokens", "2", "--repeat", "1", "--warm-up", "0", "--small")


def bench(folder, *options):
    return subprocess.run([sys.executable, TOP / "bench/jax", *PARTS, "--output", folder / "out", "--scratch", folder, *options],
                          capture_output=True, text=True, check=False, timeout=240, env={**os.environ, "MPLBACKEND": "Agg"})


@test
def it_measures_what_it_says():
    with scratch() as folder:
        done = bench(folder, "--only", "open,tpinfer,model", "--batch", "1,2", "--implementations", "ffi,jnp", BUILD)
        assert done.returncode == 0, done.stdout + done.stderr
        whole = json.loads((folder / "out/results.json").read_text())
        assert whole["failed"] == []
        found = {(result["part"], result["implementation"]): result for result in whole["results"]}
        assert set(found) == {("open", ""), ("model", "tpinfer"), ("model", "ffi"), ("model", "jnp")}
        all_cases = {("prefill", 1): 16, ("decode", 1): 2, ("decode", 2): 4}
        for name, tokens in (("ffi", all_cases), ("tpinfer", all_cases), ("jnp", {("prefill", 1): 16, ("decode", 1): 2})):
            cases = {(case["case"], case["batch"]): case for case in found["model", name]["cases"]}
            assert {key: case["tokens"] for key, case in cases.items()} == tokens, name
            assert all(second > 0 for case in cases.values() for second in case["seconds"])
        for name in ("ffi", "jnp"):
            assert [part["part"] for part in found["model", name]["parts"]] == ["attention", "experts", "head"]
        text = (folder / "out/summary.txt").read_text()
        assert text in done.stdout
        for line in ("opening the mount", "decode, batch 2", "where a token's time goes: ffi"):
            assert line in text, line
        assert sorted(path.name for path in folder.iterdir()) == ["out"]


@test
def what_fails_is_said():
    """A model that is none: each part says so, the status tells, and the results are written."""
    with scratch() as folder:
        (folder / "model").mkdir()
        done = bench(folder, "--only", "tpinfer", "--model", folder / "model", BUILD)
        assert done.returncode == 1 and "FAILED: " in done.stdout and "Traceback" not in done.stderr, done.stdout + done.stderr
        assert len(json.loads((folder / "out/results.json").read_text())["failed"]) == 1


@test
def mistakes_on_its_command_line():
    with scratch() as folder:
        for options, says in (((folder,), "no built tree"), (("--only", "everything", BUILD), "no such part: everything")):
            done = bench(folder, *options)
            assert done.returncode == 2 and says in done.stderr, done.stderr


main()
