"""The codecs on one core against memcpy; bench/codec measures, this only asks it."""

import json
import subprocess

from measure import Line

# These read two to eight bytes for each byte that they or memcpy write.
WIDER_SOURCES = {"F32", "F64"}
TARGET = 0.8
# Arithmetic bounds quantising, not memory: GB/s of what is quantised.
QUANTIZE_TARGET_GB_S = 1


def _results(program, runs):
    """Of the fastest instruction set only: it comes first, and scalar code takes its time."""
    process = subprocess.Popen([program, "--json", "--runs", str(runs)], stdout=subprocess.PIPE,
                               text=True)
    try:
        isa = None
        for text in process.stdout:
            if not text.strip(" [],\n"):
                continue
            result = json.loads(text.strip(" [],\n"))
            isa = isa or result["isa"]
            if result["isa"] != isa:
                break
            yield result
    finally:
        process.terminate()
        process.wait()


def codecs(bench):
    for result in _results(bench.programs["codec"], max(bench.pairs, 7)):
        if result["target"] == "MXFP4":
            yield Line(f"codec {result['isa']}, {result['source']} quantised to MXFP4",
                       [result["streaming_gb_s"]], target=QUANTIZE_TARGET_GB_S)
            continue
        wider = result["source"] in WIDER_SOURCES
        yield Line(f"codec {result['isa']}, {result['source']} to {result['target']}",
                   [result["streaming_gb_s"]], [result["memcpy_gb_s"]], other="memcpy",
                   target=None if wider else TARGET, note="reads more than it writes" * wider)
