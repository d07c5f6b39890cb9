"""Converts a checkpoint as one does without TensorPort: safetensors, NumPy, numpy.save; started by
exports.py. On stdin: {"kit": folder, "output": folder, "tensors": [...]}, a tensor being what
load_worker.py converts, with the "file" to write. Prints the seconds it took."""

import json
import sys
import time
from pathlib import Path

import numpy as np

from load_worker import convert


def main():
    task = json.load(sys.stdin)
    sys.path.insert(0, task["kit"])
    import common  # noqa: F401 (outside the clock)
    import ml_dtypes  # noqa: F401
    import safetensors  # noqa: F401
    start = time.perf_counter()
    for tensor in task["tensors"]:
        path = Path(task["output"]) / tensor["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, convert(tensor))
    print(json.dumps({"seconds": time.perf_counter() - start}))


main()
