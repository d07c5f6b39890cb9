"""`tpinfer run` and numbers: logits and tokens are the reference's, and the same bits however they were computed."""

import numpy as np
from run_support import encode, golden_cases, ids, logits_of, packed, run_json, script_view
from support import checkpoint, convert, main, scratch, test

MODELS = ("tiny", "small", "llama", "mistral")
GREEDY = ("--temp", 0, "--ignore-eos")


def save(folder, tokens):
    np.save(folder / "prompt.npy", tokens)
    return f"@{folder / 'prompt.npy'}"


@test
def logits_and_greedy_tokens_are_those_of_the_reference():
    with scratch() as folder:
        for name in MODELS:
            view = packed(name, folder)
            for case, prompt, greedy, expected in golden_cases(name):
                out, logits = logits_of(view, folder, "--token-ids", save(folder, prompt), "-n", len(greedy), "-c", 8192,
                                        *GREEDY)
                assert out["prompt_tokens"] == prompt.tolist() and out["tokens"] == greedy.tolist(), (name, case["name"])
                assert out["stop"] == "length"
                first = len(prompt) - 1
                found = logits[first:first + len(expected)]
                worst = np.abs(found - expected).max() / np.abs(expected).max()
                assert worst < (1e-4 if len(prompt) < 4000 else 2e-4), (name, case["name"], worst)
                assert (logits[first:].argmax(-1) == greedy).all()


@test
def bfloat16_activations_go_the_reference_s_way():
    """The same greedy tokens, running freely, but for one near tie; and no farther off than BF16 took the
    reference itself (0.12)."""
    n_other = 0
    with scratch() as folder:
        for name in MODELS:
            view = packed(name, folder)
            for case, prompt, greedy, expected in golden_cases(name, 600):
                out, logits = logits_of(view, folder, "--token-ids", save(folder, prompt), "-n", len(greedy),
                                        "--activations", "bf16", *GREEDY)
                differing = np.flatnonzero(out["tokens"] != greedy)
                assert len(differing) == 0 or case["margins"][differing[0]] < 0.12, (name, case["name"], differing)
                first = len(prompt) - 1
                rms = np.sqrt(np.mean((logits[first:first + len(expected)] - expected) ** 2))
                assert 0 < rms < 0.12, (name, case["name"], rms)
                n_other += len(differing) > 0
        assert n_other <= 1, n_other


@test
def threads_and_precision_of_the_view_change_no_bit():
    with scratch() as folder:
        for name in MODELS:
            view = packed(name, folder)
            prompt = next(prompt for case, prompt, *_ in golden_cases(name) if case["name"] == "past_window")
            how = ("--token-ids", save(folder, prompt), "-n", 20, *GREEDY)
            out, expected = logits_of(view, folder, *how, "-t", 1)
            for threads in (2, 3):
                again, logits = logits_of(view, folder, *how, "-t", threads)
                assert again["tokens"] == out["tokens"] and np.array_equal(logits, expected), (name, threads)
            for precision in ("float32", "bfloat16") if name != "small" else ("bfloat16",):
                copy = convert(checkpoint(name), folder / f"{name}-{precision}", "--precision", precision)
                again, logits = logits_of(copy, folder, *how)
                assert again["tokens"] == out["tokens"] and np.array_equal(logits, expected), (name, precision)


def same(view, folder, *options, lookups=(1, 3, 16), logprobs=True):
    """Runs without and with --lookup; (drafted, accepted) of all."""
    options = (*options, *(("--logprobs", 3) if logprobs else ()))
    out, expected = logits_of(view, folder, *options)
    counts = np.zeros(2, int)
    for n in lookups:
        again, logits = logits_of(view, folder, *options, f"--lookup={n}")
        for key in ("prompt_tokens", "tokens", "text", "stop", "logprobs"):
            assert again.get(key) == out.get(key), (key, n, options)
        assert np.array_equal(logits, expected), (n, options)
        counts += again["lookup"]["drafted"], again["lookup"]["accepted"]
    assert counts[1] <= counts[0]
    return counts


@test
def lookup_changes_no_bit():
    """Drafts that are right, wrong, and both; greedy and drawn; beyond windows and their rings."""
    with scratch() as folder:
        script = list(dict.fromkeys(encode("Where the words begin, so also must a line end: one two")))
        view = script_view(folder / "script", script)
        repeated = ("--token-ids", ids(script * 3), "--ignore-eos")
        drafted, accepted = same(view, folder, *repeated, "-n", 1200, "--temp", 0, logprobs=False, lookups=(5, 16))
        assert accepted == drafted > 1500, (drafted, accepted)
        drafted, accepted = same(view, folder, *repeated, "-n", 900, "--temp", 2.9, "--seed", 3, lookups=(16,))
        assert 50 < accepted < drafted - 20, (drafted, accepted)
        for options in (("--temp", 3.3), ("--temp", 3, "--top-k", 9, "--seed", 5), ("--temp", 3.3, "--top-p", 0.9),
                        ("--temp", 3, "--min-p", 0.05), ("--temp", 1.5, "--repeat-penalty", 1.3),
                        ("--temp", 0, "--repeat-penalty", 1.9), ("--temp", 2.9, "--kv-type", "bf16"),
                        ("--temp", 2.9, "--activations", "bf16", "-t", 3)):
            drafted, accepted = same(view, folder, *repeated, "-n", 120, *options)
            assert drafted > 0, options
        for name in ("llama", "mistral"):
            view = script_view(folder / name, script, architecture=name)
            drafted, accepted = same(view, folder, *repeated, "-n", 400, "--temp", 2.9, logprobs=False)
            assert 20 < accepted < drafted, (name, drafted, accepted)


@test
def lookup_ends_where_single_steps_end():
    with scratch() as folder:
        script = list(dict.fromkeys(encode("Where the words begin, so also must a line end: one two")))
        view = script_view(folder / "script", script)
        repeated = ("--token-ids", ids(script * 3), "--temp", 0)
        for n in (1, 2, 3, 17, 18):
            same(view, folder, *repeated, "-n", n, "--ignore-eos")
        for context in range(3 * len(script), 3 * len(script) + 20, 3):
            same(view, folder, *repeated, "-n", 100, "-c", context, "--ignore-eos")
        for place in (1, 5, 16, len(script) - 1):
            same(view, folder, *repeated, "-n", 100, "--stop-token", script[place], "--ignore-eos")
        same(view, folder, *repeated, "-n", 100, "--stop", "line e", "--ignore-eos")
        same(view, folder, *repeated, "-n", 100, "-c", 50 + 3 * len(script), "--stop-token", 1087)


def uniform(seed, position):
    """Philox 4x32-10, 53 bits (Salmon et al., 2011); numpy's own has four words of 64 bits."""
    words, key, mask = [position & 0xFFFFFFFF, position >> 32, 0, 0], [seed & 0xFFFFFFFF, seed >> 32], 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [b >> 32 ^ words[1] ^ key[0], b & mask, a >> 32 ^ words[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return ((words[0] << 32 | words[1]) >> 11) * 2.0 ** -53


def draw(row, seen, position, temp=1.0, top_k=0, top_p=1.0, min_p=0.0, penalty=1.0, seed=0):
    """The token that the manual page describes, straight from it."""
    row = row.astype(np.float64)
    if penalty != 1:
        seen = np.array(sorted(seen))
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty).astype(np.float32)
    order = np.argsort(-row, kind="stable")
    p = np.exp((row[order] - row[order[0]]) / temp)
    if top_k:
        p = p[:top_k]
    before = np.cumsum(p) - p
    p = p[((before < top_p * p.sum()) | (before == 0)) & (p >= min_p * p[0])]
    return order[min(np.searchsorted(np.cumsum(p), uniform(seed, position) * p.sum(), "right"), len(p) - 1)]


@test
def draws_are_numpy_s():
    """Token by token, from the logits in the file."""
    names = {"temp": "--temp", "top_k": "--top-k", "top_p": "--top-p", "min_p": "--min-p", "penalty": "--repeat-penalty",
             "seed": "--seed"}
    with scratch() as folder:
        view = packed("tiny", folder)
        for how in ({}, {"temp": 0.3}, {"temp": 3, "seed": 2**63 + 5}, {"top_k": 5}, {"top_k": 1000, "temp": 2}, {"top_p": 0.7},
                    {"top_p": 0.95, "temp": 2.5, "seed": 3}, {"min_p": 0.1}, {"penalty": 1.5, "temp": 2},
                    {"top_k": 30, "top_p": 0.8, "min_p": 0.02, "penalty": 1.2, "temp": 1.8, "seed": 9}):
            how = {"temp": 1.0, **how}
            prompt = [5, 6, 7, 8, 7, 300]
            out, logits = logits_of(view, folder, "--token-ids", ids(prompt), "-n", 80, "--ignore-eos",
                                    *(word for name, value in how.items() for word in (names[name], value)))
            seen = set(prompt)
            for i, token in enumerate(out["tokens"]):
                assert token == draw(logits[len(prompt) - 1 + i], seen, len(prompt) + i, **how), (how, i)
                seen.add(token)


@test
def log_probabilities_are_those_of_the_logits():
    """By numpy, from the file of logits: of what the model gave, whatever the sampler made of it."""
    with scratch() as folder:
        for name in ("tiny", "llama"):
            prompt = next(prompt for case, prompt, *_ in golden_cases(name) if case["name"] == "text")
            out, logits = logits_of(packed(name, folder), folder, "--token-ids", save(folder, prompt), "-n", 30,
                                    "--ignore-eos", "--logprobs", 7, "--temp", 1.7, "--repeat-penalty", 1.4, "--top-k", 50)
            rows = logits[len(prompt) - 1:].astype(np.float64)
            rows -= rows.max(axis=-1, keepdims=True)
            expected = rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
            assert [entry["id"] for entry in out["logprobs"]] == out["tokens"] and len(rows) == 30
            for row, entry in zip(expected, out["logprobs"], strict=True):
                assert abs(entry["logprob"] - row[entry["id"]]) < 1e-12 * 30
                order = np.argsort(-row, kind="stable")[:7]
                assert [top["id"] for top in entry["top"]] == order.tolist()
                assert np.allclose([top["logprob"] for top in entry["top"]], row[order], rtol=0, atol=1e-11)
                assert all(isinstance(top["text"], str) for top in (entry, *entry["top"]))


@test
def log_probabilities_of_none_and_of_many():
    with scratch() as folder:
        view = packed("tiny", folder)
        out = run_json(view, "--token-ids", "5,6", "-n", 3, "--logprobs", 0)
        assert [entry["top"] for entry in out["logprobs"]] == [[]] * 3
        out = run_json(view, "--token-ids", "5,6", "-n", 1, "--logprobs", 256)
        assert len({top["id"] for top in out["logprobs"][0]["top"]}) == 256


main()
