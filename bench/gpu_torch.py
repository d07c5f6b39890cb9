"""What PyTorch does on this GPU with the matrices of a token of gpt-oss-20b: bench/gpu's side by side.

    python3 gpu_torch.py OUTPUT.json

As `tpinfer bench --stages` does it: a recording of the product with one layer after the other, the best of
several rounds, beside a copy."""

import json
import sys

import torch

PRODUCTS = (("heads", 5120, 2880, 24), ("output", 2880, 4096, 24), ("head", 201088, 2880, 1))  # rows, columns, layers
TOKENS = (1, 2, 4, 8)
ROUNDS, REPLAYS = 5, 5


def seconds(work):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    best = float("inf")
    for _ in range(ROUNDS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPLAYS):
            graph.replay()
        stop.record()
        stop.synchronize()
        best = min(best, start.elapsed_time(stop) / 1000 / REPLAYS)
    return best


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def copy_rate():
    source = random(1 << 29)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source)) / 1e9


def product(name, rows, columns, layers, copies):
    weights = [random(rows, columns) for _ in range(layers)]
    for n in TOKENS:
        x = random(columns, n)
        time = seconds(lambda x=x: [weight @ x for weight in weights]) / layers
        rate = weights[0].nbytes / time / 1e9
        print(f"{name:8} {n} tokens: {1e6 * time:8.2f} us each {rate:7.0f} GB/s {100 * rate / copies:4.0f}%")
        yield {"product": name, "tokens": n, "seconds": time, "gb_per_second": rate, "share": rate / copies}


def main():
    copies = copy_rate()
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}: copies {copies:.0f} GB/s")
    found = [one for shape in PRODUCTS for one in product(*shape, copies)]
    with open(sys.argv[1], "w") as file:
        json.dump({"torch": torch.__version__, "device": torch.cuda.get_device_name(), "copy_gb_per_second": copies,
                   "products": found}, file, indent=1)


main()
