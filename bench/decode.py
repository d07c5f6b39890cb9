"""Decoding one token after another, in ways that take turns in one process: bench/decode."""

import json
import subprocess

from bench import Skipped
from measure import Line

FEW_LAYERS = 4
TOKENS = 2  # a round
INT8_TARGET = 1.35


def _few_layers(bench):
    """gpt-oss-20b, but for the number of layers: small enough to be in memory twice."""
    folder = bench.folder("disk") / "few-layers"
    subprocess.run([bench.programs["tensorport"], "synth", "--quiet", "--preset", "20b", "--set",
                    f"num_hidden_layers={FEW_LAYERS}", folder], check=True)
    return folder


def _measure(bench, folder, *ways):
    """What bench/decode prints, by way. The view is read once before: weights are in memory."""
    mount = bench.mounts.tensorport(folder)
    files = sorted(map(str, mount.path.glob(".tensorport/views/packed/shard_*/*.npy")))
    subprocess.run(["cat", "--", *files], stdout=subprocess.DEVNULL, check=True)
    run = subprocess.run([bench.programs["decode"], "--rounds", str(2 * bench.pairs + 1), "--tokens",
                          str(TOKENS), str(mount.path), *ways], capture_output=True, text=True,
                         check=True)
    bench.mounts.close(mount)
    results = [json.loads(line) for line in run.stdout.splitlines()]
    return {result["way"]: result for result in results}


def _lines(label, ways):
    first = ways["mapped"]
    yield Line(f"{label}, opened and mapped", [first["open_seconds"] + first["load_seconds"]],
               unit="s", note=f"first token after {first['first_token_seconds']:.2f} s more")
    for way, result in ways.items():
        if result is not first:
            yield Line(f"{label}, decode, {way}", result["rates"], first["rates"], other="mapped",
                       unit="tokens/s", target=INT8_TARGET if "int8" in way else None,
                       note=f"{result['private_bytes'] / 1e9:.2f} GB of its own")


def decode(bench):
    if "tensorport" not in bench.programs:
        raise Skipped("tensorport is not built")
    yield from _lines(f"20b of {FEW_LAYERS} layers",
                      _measure(bench, _few_layers(bench), "mapped", "huge", "mapped,int8"))
    if bench.options.model_20b:
        yield from _lines("20b", _measure(bench, bench.options.model_20b, "mapped", "mapped,int8"))
