"""`tpinfer bench`: that its figures belong together, and to the model. How fast it is, is nothing
for a test."""

import csv
import io
import json
import os
import pty
import signal
import subprocess

import numpy as np
from support import BUILD, KIT, Mount, checkpoint, main, make, scratch, test, wait_for

TPINFER = BUILD / "tpinfer"
STEP = 512  # tokens of a prompt in one step
MOST = 600  # seconds


def tpinfer(*arguments, **how):
    return subprocess.run([TPINFER, *map(str, arguments)], capture_output=True, timeout=MOST, check=False,
                          stdin=subprocess.DEVNULL, **how)


def bench(view, *options):
    """What it says as JSON."""
    done = tpinfer("bench", view, "--json", "-", "-w", 0, *options)
    assert (done.returncode, done.stderr) == (0, b""), done
    return json.loads(done.stdout)


def refused(*arguments, status=1, says=()):
    done = tpinfer("bench", *arguments)
    stderr = done.stderr.decode()
    assert done.returncode == status and stderr.count("\n") == 1 and done.stdout == b"", done
    for part in says:
        assert part in stderr, f"expected {part!r} in: {stderr}"


def tokens_of(folder, text):
    done = subprocess.run([TPINFER, "tokenize", "--json", folder], input=text.encode(), check=True, capture_output=True)
    return json.loads(done.stdout)["tokens"]


# ---------------------------------------------------------------- what a step costs, by numpy

class Model:
    """Sizes of all tensors of a view, by its manifest."""

    def __init__(self, view, kv_bytes=4):
        packed = view / ".tensorport/views/packed"
        folder = packed if packed.is_dir() else view
        self.config = config = json.loads((folder / "config.json").read_text())
        self.n_layers, self.n_experts = config["num_hidden_layers"], config.get("num_local_experts", 0)
        self.k = config.get("num_experts_per_tok", 0)
        self.head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        self.position = 2 * config["num_key_value_heads"] * self.head_dim * kv_bytes
        types = config.get("layer_types") or ["sliding_attention"] * self.n_layers
        window = config.get("sliding_window")
        self.windows = [window if window and kind == "sliding_attention" else 1 << 40 for kind in types]
        self.layers = self.experts = self.head = self.row = self.macs = self.head_macs = 0
        for tensor in json.loads((folder / "manifest.json").read_text())["tensors"]:
            self.take(tensor["name"], tensor["shape"], tensor["nbytes"])
        if not self.head_macs:  # tied
            self.head += self.row * config["vocab_size"]
            self.head_macs = config["vocab_size"] * config["hidden_size"]

    def take(self, name, shape, nbytes):
        n = int(np.prod(shape, dtype=np.int64))
        if "experts" in name:
            self.experts += n * 4 if name.endswith("bias") else nbytes  # vectors lie in memory as float32
            scale = 2 if name.endswith("_blocks") else 0 if name.endswith(("_scales", "bias")) else 1
            self.macs += n * scale // self.n_experts * self.k
        elif "embed_tokens" in name:
            self.row = nbytes // shape[0]
        elif "lm_head" in name:
            self.head += nbytes
            self.head_macs = n
        elif name == "model.norm.weight":
            self.head += n * 4
        else:
            self.layers += nbytes if len(shape) == 2 else n * 4
            self.macs += n if len(shape) == 2 else 0

    def costs(self, steps, experts):
        """Of steps, each a list of (tokens before, tokens, rows of logits), with so many experts in all."""
        dense = cache = macs = 0
        for step in steps:
            dense += self.layers + (self.head if any(logits for *_, logits in step) else 0)
            for before, n, logits in step:
                dense += n * self.row
                seen = np.arange(before, before + n)[:, None] - np.arange(before + n)  # how far back
                for window in self.windows:
                    mask = (seen >= 0) & (seen < window)
                    cache += int(mask.any(0).sum()) * self.position
                    macs += int(mask.sum()) * 2 * self.config["num_attention_heads"] * self.head_dim
                macs += n * self.macs + logits * self.head_macs
        per_expert = self.experts // self.n_layers // self.n_experts if self.n_experts else 0
        return {"dense_bytes": dense, "expert_bytes": experts * per_expert, "cache_bytes": cache,
                "multiply_adds": macs, "steps": len(steps), "tokens": sum(n for step in steps for _, n, _ in step)}


def prefill_steps(lengths):
    """As many tokens in a step as it may have, text after text."""
    steps, room = [[]], STEP
    for length in lengths:
        before = 0
        while before < length:
            n = min(room, length - before)
            steps[-1].append((before, n, int(before + n == length)))
            before, room = before + n, room - n
            if room == 0:
                steps, room = [*steps, []], STEP
    return [step for step in steps if step]


def decode_steps(lengths, n):
    return [[(length + i, 1, 1) for length in lengths] for i in range(n)]


def check_case(model, case, n):
    lengths, batch = case["lengths"], case["batch"]
    assert len(lengths) == batch and case["length"] == max(lengths)
    steps = prefill_steps(lengths) if case["case"] == "prefill" else decode_steps(lengths, n)
    wanted = model.costs(steps, case["experts"])
    found = {key: case[key] for key in wanted}
    assert found == wanted, f"{case['case']} {lengths}: {found}, expected {wanted}"
    assert case["bytes"] == case["dense_bytes"] + case["expert_bytes"] + case["cache_bytes"]
    visits = sum(min(model.n_experts, model.k * sum(n for _, n, _ in step)) for step in steps) * model.n_layers
    assert len(steps) * model.n_layers * model.k <= case["experts"] <= visits
    assert np.isclose(case["experts_per_layer"], case["experts"] / len(steps) / model.n_layers)


def check_limit(case, best, done, limit, share):
    limits = np.array(case[f"all_{limit}"])
    assert len(limits) == len(case["all_seconds"])
    assert (0 < limits).all() and (limits <= best * (1 + 1e-9)).all()
    assert np.isclose(case[limit], np.median(limits))
    assert np.isclose(case[share], np.median(done / np.array(case["all_seconds"]) / limits))


def check_figures(whole, case):
    """What is derived, by numpy."""
    quartiles = np.percentile(case["all_seconds"], [25, 50, 75])
    seconds, rate = case["seconds"], case["tokens_per_second"]
    assert np.allclose([seconds["low"], seconds["median"], seconds["high"]], quartiles)
    assert np.allclose([rate["high"], rate["median"], rate["low"]], case["tokens"] / quartiles)
    assert np.isclose(case["gb_per_second"], case["bytes"] / quartiles[1] / 1e9)
    assert np.isclose(case["gflop_per_second"], 2 * case["multiply_adds"] / quartiles[1] / 1e9)
    check_limit(case, whole["limits"]["read_gb_per_second"], case["bytes"] / 1e9,
                "read_gb_per_second", "bandwidth_share")
    if whole["limits"]["gflop_per_second"] is None:
        assert case["peak_share"] is None and case["peak_gflop_per_second"] is None
        assert case["all_peak_gflop_per_second"] == []
    else:
        check_limit(case, whole["limits"]["gflop_per_second"], 2 * case["multiply_adds"] / 1e9,
                    "peak_gflop_per_second", "peak_share")
    assert case["memory"]["private_bytes"] > 0 and case["memory"]["page_cache_bytes"] > 0
    assert len(case["all_seconds"]) == whole["settings"]["repeat"]


# ---------------------------------------------------------------- tests

@test
def counts_are_those_of_the_model():
    with Mount(checkpoint("tiny")) as mount:
        whole = bench(mount.path, "-p", "1,130", "-d", "0,140", "-b", "1,3", "-n", 3, "-r", 3)
        model = Model(mount.path)
        cases = whole["cases"]
        assert [(case["case"], case["batch"], case["length"]) for case in cases] == [
            (kind, batch, length) for batch in (1, 3)
            for kind, length in (("prefill", 1), ("prefill", 130), ("decode", 0), ("decode", 140))]
        for case in cases:
            check_case(model, case, 3)
            check_figures(whole, case)
            assert case["first_prompt"] is None
        alone, together = (next(case for case in cases if (case["case"], case["batch"]) == ("decode", n)) for n in (1, 3))
        assert alone["experts_per_layer"] == model.k < together["experts_per_layer"]
        assert whole["model"]["weight_bytes"] == sum(
            path.stat().st_size - 128 for path in (mount.path / ".tensorport/views/packed").glob("shard_*/*.npy"))
        assert (whole["model"]["experts"], whole["model"]["layers"]) == (model.n_experts, model.n_layers)
        assert whole["settings"]["threads"] >= 1 and not whole["interrupted"]
        assert whole["first_token_seconds"] > whole["load_seconds"] > 0


@test
def long_prompts_take_several_steps():
    """Which read the weights anew; texts share steps."""
    with Mount(checkpoint("tiny")) as mount:
        whole = bench(mount.path, "-p", "700", "-b", "2", "-d", 600, "-n", 2, "-r", 1, "--kv-type", "bf16", "-t", 1,
                      "--activations", "bf16")
        model = Model(mount.path, kv_bytes=2)
        assert [case["steps"] for case in whole["cases"]] == [3, 2]
        for case in whole["cases"]:
            check_case(model, case, 2)
        assert (whole["settings"]["kv_type"], whole["settings"]["activations"]) == ("bf16", "bf16")
        assert whole["settings"]["threads"] == 1


@test
def windows_that_have_moved_on_are_filled_again():
    """More tokens than a ring keeps: each run begins where the first one did."""
    with Mount(checkpoint("tiny")) as mount:
        whole = bench(mount.path, "-p", 0, "-d", 5, "-n", 1400, "-r", 2)
        (case,) = whole["cases"]
        check_case(Model(mount.path), case, 1400)


@test
def dense_models_have_no_experts():
    for name in ("llama", "mistral"):
        with Mount(checkpoint(name)) as mount:
            whole = bench(mount.path, "-p", "33", "-d", 20, "-n", 2, "-r", 1)
            model = Model(mount.path)
            for case in whole["cases"]:
                check_case(model, case, 2)
                assert case["experts"] == 0
            assert len(whole["cases"]) == 2


@test
def weights_count_as_they_lie():
    """Experts that a copy has decoded, and matrices in float32."""
    with scratch() as folder:
        view = folder / "view"
        subprocess.run([BUILD / "tensorport", "convert", "-q", checkpoint("tiny"), view], check=True)
        tied = make(folder / "tied", "--arch", "llama", "--set", "tie_word_embeddings=true")
        with Mount(tied) as mount:
            for path in (view, mount.path):
                whole = bench(path, "-p", 5, "-n", 2, "-r", 1)
                for case in whole["cases"]:
                    check_case(Model(path), case, 2)


@test
def seeds_decide_what_is_measured():
    with Mount(checkpoint("small")) as mount:
        def experts(*options):
            return [case["experts"] for case in bench(mount.path, "-p", 9, "-n", 9, "-b", 3, *options)["cases"]]
        first = experts("-r", 1)
        assert experts("-r", 2, "-t", 3, "--pin") == first
        assert experts("-r", 1, "-s", 5) != first


@test
def files_of_prompts_are_a_suite():
    folder = checkpoint("small")
    texts = ["Once upon a time", "äöü — ✓\u00a0x", "Once upon a time", "def f(x):\treturn x", "zwei \"Wörter\" \\n"]
    lengths = [len(tokens_of(folder, text)) for text in texts]
    assert len(set(lengths)) > 2
    with Mount(folder) as mount, scratch() as place:
        lines, objects = place / "lines.txt", place / "objects.jsonl"
        lines.write_bytes("\r\n\n".join(texts).encode())  # of Windows, with empty lines, and no end
        objects.write_text("".join(json.dumps(text if i % 2 else {"id": [1, {"text": 2}], ["prompt", "text"][i // 2 % 2]: text},
                                              ensure_ascii=bool(i % 3)) + "\n" for i, text in enumerate(texts)))
        whole = bench(mount.path, "-f", lines, "-b", "2,1", "-n", 4, "-r", 2)
        found = [(case["case"], case["first_prompt"], case["lengths"]) for case in whole["cases"]]
        groups = [(first + 1, lengths[first:first + n]) for n in (2, 1) for first in range(0, len(texts), n)]
        assert found == [(kind, *group) for group in groups for kind in ("prefill", "decode")]
        model = Model(mount.path)
        for case in whole["cases"]:
            check_case(model, case, 4)
            check_figures(whole, case)
        # 1 and 3 are the same text: alone they read the same experts, and at once no more than alone.
        again = bench(mount.path, "-f", objects, "-b", 1, "-n", 4, "-r", 1)["cases"]
        experts = [case["experts"] for case in again]
        assert experts == [case["experts"] for case in whole["cases"] if case["batch"] == 1][-len(experts):]
        lines.write_text("Once upon a time\n" * 3)
        assert [case["experts"] for case in bench(mount.path, "-f", lines, "-b", 3, "-n", 4, "-r", 1)["cases"]] == experts[:2]


@test
def tables_and_files_say_the_same():
    with Mount(checkpoint("tiny")) as mount, scratch() as folder:
        table = tpinfer("bench", mount.path, "-p", 20, "-b", "1,2", "-n", 5, "-r", 3, "--json", folder / "a.json",
                        "--csv", folder / "a.csv")
        assert (table.returncode, table.stderr) == (0, b""), table
        whole = json.loads((folder / "a.json").read_text())
        rows = list(csv.DictReader(io.StringIO((folder / "a.csv").read_text())))
        assert len(rows) == len(whole["cases"]) == 4
        for row, case in zip(rows, whole["cases"]):
            assert None not in row and None not in row.values()
            assert (row.pop("case"), row.pop("first_prompt")) == (case["case"], "")
            flat = {**case, **case["memory"], "repeat": 3}
            flat.update({f"{key}_{edge}": value for key in ("seconds", "tokens_per_second")
                         for edge, value in case[key].items()})
            for key, text in row.items():
                # The best bandwidth may have been seen afterwards.
                loose = "share" in key
                assert loose or np.isclose(float(text), flat[key], rtol=1e-5), (key, text, flat[key])
        lines = table.stdout.decode().splitlines()
        for case in whole["cases"]:
            name = "prefill 20" if case["case"] == "prefill" else "decode after 0"
            (line,) = [line for line in lines if line.startswith(name) and line[len(name):].split()[0] == str(case["batch"])]
            assert line[len(name):].split()[1] == f"{case['tokens_per_second']['median']:.1f}"
        assert any(line.startswith("memory: ") for line in lines)
        only = tpinfer("bench", mount.path, "-p", 4, "-n", 0, "-r", 1, "--csv", "-")
        assert only.stdout.count(b"\n") == 2 and only.stdout.startswith(b"case,batch,"), only


@test
def interrupts_keep_what_is_done():
    """And the bar is gone from the terminal."""
    with Mount(checkpoint("small")) as mount, scratch() as folder:
        terminal, other = pty.openpty()
        process = subprocess.Popen([TPINFER, "bench", mount.path, "-p", "4", "-d", "3", "-n", "400", "-r", "60",
                                    "-b", "1,2", "--json", folder / "a.json", "--csv", folder / "a.csv"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=other)
        try:
            os.close(other)
            seen = b""
            while b"decode, batch 1, 3 tokens: run " not in seen:
                seen += os.read(terminal, 1000)
            wait_for(lambda: (folder / "a.csv").read_text().count("\n") == 2, "the first case", 300)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=120)
            while True:  # until the terminal is closed
                try:
                    seen += os.read(terminal, 1000)
                except OSError:
                    break
        finally:
            process.kill()
            process.wait()
            os.close(terminal)
        assert process.returncode == -signal.SIGINT, process.returncode
        assert seen.endswith(b"\r\x1b[K"), seen[-80:]
        whole = json.loads((folder / "a.json").read_text())
        assert whole["interrupted"] and [case["case"] for case in whole["cases"]] == ["prefill"]
        assert b"interrupted" in out


@test
def mistakes_are_said_before_anything_is_measured():
    folder = checkpoint("small")
    with Mount(folder) as mount, scratch() as place:
        view = mount.path
        for options, says in (
                (["-p", "1,x"], ["--prompt-lengths", "x"]), (["-p", "1,,2"], ["--prompt-lengths"]), (["-p", ""], ["--prompt"]),
                (["-p", "1,"], ["--prompt-lengths"]), (["-d", "-1"], ["--depths"]), (["-b", "0"], ["--batch"]),
                (["-b", "513"], ["--batch", "512"]), (["-r", "0"], ["--repeat"]), (["-w", "1e3"], ["--warm-up"]),
                (["-n", "99999999999"], ["--tokens"]), (["-s", "-1"], ["--seed"]), (["-t", "0"], ["--threads"]),
                (["-p", ",".join(["1"] * 33)], ["--prompt-lengths", "32"]), (["--json", "-", "--csv", "-"], ["only one"]),
                (["--activations", "fp8"], ["--activations", "fp8"]), (["-f", "x", "-p", "5"], ["--prompt-lengths"]),
                (["-p", "1" * 60], ["--prompt-lengths"]), (["--depth", "3", "--speed"], ["--speed"])):
            refused(view, *options, status=2, says=says)
        refused(status=2, says=["expected one VIEW", "found 0"])
        refused(view, view, status=2, says=["found 2"])
        refused(place, says=["manifest.json"])
        refused(view, "-p", 50, "-c", 49, says=["50", "--context is 49"])
        refused(view, "-p", 0, "-d", 50, "-n", 9, "-c", 58, says=["59", "--context is 58"])
        refused(view, "-p", 16_000_000, says=["16000000", "the model has"])
        refused(view, "-p", 130_000, "-b", 512, says=["512 texts", "available", "--batch"])
        refused(view, "--json", place / "none/a.json", says=["none/a.json", "cannot create"])
        refused(view, "-f", place / "none.txt", says=["none.txt", "cannot open"])
        for name, content, says in (
                ("empty.txt", b"\n\n", ["empty.txt", "found none"]), ("bytes.txt", b"ok\n\xff\xfe\n", ["line 2", "UTF-8"]),
                ("a.jsonl", b'"ok"\n{"prompt": 5}\n', ["a.jsonl", "line 2", "expected a JSON string"]),
                ("b.jsonl", b'{"prompt": "x"', ["line 1"]), ("c.jsonl", b'"x" "y"\n', ["line 1"]),
                ("d.jsonl", b'[' * 10000, ["line 1"]), ("e.jsonl", b'""\n', ["line 1", "no tokens"]),
                ("f.jsonl", b'{"prompt": {"prompt": "x"}}', ["line 1", "found {"])):
            (place / name).write_bytes(content)
            refused(view, "-f", place / name, says=says)
        full = tpinfer("bench", view, "-p", 1, "-n", 0, "-r", 1, "-w", 0, "--json", "/dev/full")
        assert full.returncode == 1 and b"cannot write" in full.stderr, full
        (make(place / "bare", "--preset", "tiny") / "tokenizer.json").unlink()
        with Mount(place / "bare") as bare:
            (place / "x.txt").write_text("x\n")
            refused(bare.path, "-f", place / "x.txt", says=["tokenizer.json"])


main()
