"""What bench/jax found, as tables, and what they say of where the time goes."""

import statistics

# What is wanted.
OF_TPINFERS_KERNEL, TIMES_JNP, OF_TPINFERS_DECODE = 0.9, 5.0, 0.7
QUANTIZE, OPEN, MEMORY = 1.0, 0.3, 18.0  # GB/s of BF16 a processor, seconds, GiB


def median(case):
    return statistics.median(case["seconds"])


def rate(case):
    """Bytes a second, in GB/s."""
    return case["bytes"] / median(case) / 1e9


def speed(case):
    """Tokens a second."""
    return case["tokens"] / median(case)


def key(case):
    return case["case"], case["length"], case["batch"]


class Tables:
    def __init__(self, whole):
        self.about, self.failed, self.results = whole["about"], whole["failed"], whole["results"]
        self.platforms = list(self.about["platforms"])
        self.lines = []

    def add(self, text=""):
        self.lines.append(text)

    def row(self, *cells):
        self.add("".join(f"{cell:<26}" if i == 0 else f"{cell:>14}" for i, cell in enumerate(map(str, cells))))

    def of(self, part, platform, implementation=None):
        return [result for result in self.results if result["part"] == part and result["platform"] == platform
                and implementation in (None, result["implementation"])]

    def by_implementation(self, part, platform):
        return {result["implementation"]: result for result in self.of(part, platform)}

    # ---- tables

    def operations(self, platform):
        found = self.by_implementation("operations", platform)
        if not found:
            return
        self.add(f"\noperations on the {platform}: GB/s of the weights as stored (quantise, dequantise: of BF16)")
        self.row("", *found, "ratio")
        names = [(case["case"], case["batch"]) for case in next(iter(found.values()))["cases"]]
        for name, batch in names:
            rates = [rate(case) for result in found.values() for case in result["cases"] if (case["case"], case["batch"]) == (name, batch)]
            ratio = f"{rates[0] / rates[1]:.1f}" if len(rates) == 2 else ""
            self.row(name + (f", batch {batch}" if batch else ""), *(f"{one:.2f}" for one in rates), ratio)

    def models(self, platform):
        found = self.by_implementation("model", platform)
        if not found:
            return
        self.add(f"\nthe model on the {platform}: tokens a second")
        self.row("", *found)
        keys = list(dict.fromkeys(key(case) for result in found.values() for case in result["cases"]
                                  if case["case"] == "prefill" and case["batch"] == 1))
        keys += [("decode", None, batch) for batch in
                 dict.fromkeys(case["batch"] for result in found.values() for case in result["cases"] if case["case"] == "decode")]
        for wanted in keys:
            cells = []
            for result in found.values():
                here = [case for case in result["cases"] if key(case) == wanted or (wanted[1] is None and (case["case"], case["batch"]) == (wanted[0], wanted[2]))]
                cells.append(f"{speed(here[0]):.2f}" if here else "")
            self.row(f"{wanted[0]}, " + (f"batch {wanted[2]}" if wanted[1] is None else f"{wanted[1]} tokens"), *cells)
        self.row("first token, seconds", *(f"{result['first_token_seconds']:.1f}" if "first_token_seconds" in result else "" for result in found.values()))
        self.row("memory at most, GiB", *(f"{result['memory']['peak'] / 2**30:.1f}" for result in found.values()))

    def where(self, platform):
        """A token's time by what it is spent on; the rest is calls, norms and the choice."""
        found = {name: result for name, result in self.by_implementation("model", platform).items() if result["parts"]}
        limits = [case["read_gb_per_second"] for result in self.of("model", platform, "tpinfer") for case in result["cases"]
                  if case["case"] == "decode" and case["batch"] == 1]
        limit = limits[0] if limits else None
        for name, result in found.items():
            whole = next(median(case) / case["tokens"] for case in result["cases"] if case["case"] == "decode" and case["batch"] == 1)
            self.add(f"\nwhere a token's time goes: {name} on the {platform}, {1e3 * whole:.1f} ms")
            rest = whole
            for part in result["parts"]:
                spent = median(part)
                rest -= spent
                of_limit = f", {rate(part) / limit:.2f} of what a loop reads that does nothing else" if limit else ""
                self.add(f"    {part['part']:<10} {1e3 * spent:9.1f} ms {spent / whole:5.0%}   {part['bytes'] / 1e6:7.0f} MB at {rate(part):6.1f} GB/s{of_limit}")
            self.add(f"    {'the rest':<10} {1e3 * rest:9.1f} ms {rest / whole:5.0%}   calls, norms, rotations, the choice of the token"
                     + (": the parts by themselves took longer than all of it" if rest < 0 else ""))
            slowest = max(result["parts"], key=median)
            self.add(f"    Most of it goes into {slowest['part']}." + ("" if limit is None or rate(slowest) > 0.6 * limit else
                     " It reads far less than the memory gives: computing, not reading, is what it waits for."))

    # ---- targets

    def verdict(self, name, found, wanted, at_most=False):
        good = found <= wanted if at_most else found >= wanted
        self.add(f"    {name:<72} {found:8.3f}  {'<=' if at_most else '>='} {wanted:<5g} {'ok' if good else 'SHORT'}")

    def targets(self):
        self.add("\nwhat is wanted, on the CPU")
        for result in self.of("open", "cpu"):
            self.verdict("opening the mount, seconds", statistics.median(result["seconds"]), OPEN, at_most=True)
        ours = [rate(result["cases"][0]) for result in self.of("turn", "cpu", "ffi")]
        theirs = [statistics.median(result["rates"]) for result in self.of("turn", "cpu", "tpinfer")]
        if ours and theirs:
            self.verdict("mxfp4.matmul, batch 1, of tpinfer's own kernel (in turns)", statistics.median(a / b for a, b in zip(ours, theirs)), OF_TPINFERS_KERNEL)
        operations = self.by_implementation("operations", "cpu")
        if {"ffi", "jnp"} <= set(operations):
            one = [rate(next(case for case in operations[name]["cases"] if (case["case"], case["batch"]) == ("mxfp4.matmul", 1))) for name in ("ffi", "jnp")]
            self.verdict("mxfp4.matmul, batch 1, times jax.numpy's", one[0] / one[1], TIMES_JNP)
        if "ffi" in operations:
            case = next(case for case in operations["ffi"]["cases"] if case["case"] == "mxfp4.quantize")
            self.verdict("mxfp4.quantize, GB/s of BF16 a processor", rate(case) / self.about["processors"], QUANTIZE)
        models = self.by_implementation("model", "cpu")
        if {"ffi", "tpinfer"} <= set(models):
            one = [next(speed(case) for case in models[name]["cases"] if case["case"] == "decode" and case["batch"] == 1) for name in ("ffi", "tpinfer")]
            self.verdict("decode, batch 1, of tpinfer's", one[0] / one[1], OF_TPINFERS_DECODE)
        if "ffi" in models:
            self.verdict("memory, GiB, the mount's pages included", models["ffi"]["memory"]["peak"] / 2**30, MEMORY, at_most=True)

    def text(self):
        self.add(", ".join(f"{name} {value}" for name, value in self.about.items() if name != "platforms"))
        for name, device in self.about["platforms"].items():
            self.add(f"{name}: {device['device']}, jax {device['jax']}" if device else f"{name}: not there")
        for platform in self.platforms:
            self.operations(platform)
            self.models(platform)
            self.where(platform)
        self.targets()
        for what in self.failed:
            self.add(f"FAILED: {what}")
        return "\n".join(self.lines) + "\n"
