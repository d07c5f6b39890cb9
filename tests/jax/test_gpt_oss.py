"""tensorport.gpt_oss against the goldens of transformers: logits, router choices, greedy tokens; by the kernels in C
and in plain jnp. Then what generate() promises, and the example of the README."""

import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax_support import (KIT, PACKAGE, checkpoint, convert, main, python, raises, read, scratch, tensorport, test,
                         write_view)
from tensorport import _ffi, gpt_oss
from tensorport.config import read_config
from tensorport.nnx import MoE
from tensorport.rope import rope_tables
from tensorport.sampling import Sampling, choose, new_sampler, note

ROOM = 256
WAYS = ("jnp", "ffi") if _ffi.available() else ("jnp",)


def cases_of(name, longest=ROOM - 40):
    folder = KIT / "goldens" / name
    for case in json.loads((folder / "manifest.json").read_text())["cases"]:
        if case["prompt_length"] <= longest:
            parts = {part: folder / f"{case['name']}.{part}.npy" for part in
                     ("prompt", "greedy", "logits", "router_experts", "router_weights")}
            yield case, {part: np.load(path) for part, path in parts.items() if path.exists()}


@nnx.jit
def inside(module, tokens, count):
    """Logits of every position, and what each layer's router chose."""
    routed, route = [], MoE.route
    def noting(self, x):
        routed.append(route(self, x))
        return routed[-1]
    MoE.route = noting
    try:
        hidden, _ = module.step(tokens, module.cache(ROOM), count)
    finally:
        MoE.route = route
    return module.logits(hidden), routed


def check_goldens(name, way, module):
    for case, golden in cases_of(name):
        prompt, greedy = golden["prompt"], golden["greedy"]
        ids = np.concatenate([prompt, greedy[:-1]])
        logits, routed = inside(module, jnp.asarray(np.pad(ids, (0, ROOM - len(ids)))), len(ids))
        expected = golden["logits"]
        found = np.asarray(logits)[len(prompt) - 1:len(prompt) - 1 + len(expected)]
        error = np.abs(found - expected).max() / np.abs(expected).max()
        assert error < 1e-4, (name, way, case["name"], error)
        chosen = np.asarray(logits)[len(prompt) - 1:len(ids)].argmax(-1)
        assert np.array_equal(chosen, greedy), (name, way, case["name"])
        if "router_experts" in golden and case["smallest_router_gap"] > 1e-4:
            experts, weights = (np.stack([np.asarray(layer[i]) for layer in routed]) for i in (0, 1))
            n = golden["router_experts"].shape[1]
            assert np.array_equal(experts[:, :n], golden["router_experts"]), (name, way, case["name"])
            assert np.abs(weights[:, :n] - golden["router_weights"]).max() < 1e-4


def check_greedy(name, way, model, longest):
    for case, golden in cases_of(name, longest):
        got = model.generate(golden["prompt"], len(golden["greedy"]), temperature=0, stop_ids=())
        assert got.tokens == golden["greedy"].tolist() and got.stop == "length", (name, way, case["name"])


# ---------------------------------------------------------------- the reference

@test
def goldens_hold_off_a_mount():
    """GPT-OSS; the 517 tokens' prompt takes two chunks, the window is crossed in both."""
    for way in WAYS:
        with tensorport.mount(checkpoint("tiny")) as mount:
            model = gpt_oss.load(mount, implementation=way)
            check_goldens("tiny", way, model.module)
            check_greedy("tiny", way, model, 600 if way == WAYS[-1] else 12)


@test
def goldens_hold_for_dense_models():
    for name in ("llama", "mistral"):
        for way in WAYS:
            with tensorport.mount(checkpoint(name)) as mount:
                model = gpt_oss.load(mount, implementation=way)
                check_goldens(name, way, model.module)
                check_greedy(name, way, model, 20)


@test
def decoded_views_compute_the_same():
    """Experts in BF16, and transposed as transformers has them."""
    with scratch() as folder:
        source = checkpoint("tiny")
        tensors = read(source)
        view = tensorport.open(convert(source, folder / "bf16", "--precision", "bfloat16"))
        check_goldens("tiny", "bf16", gpt_oss.load(view).module)
        arrays = {name: np.asarray(array) for name, array in view.items()}
        for name in arrays:
            if name.endswith(("gate_up_proj", "down_proj")):
                arrays[name] = np.ascontiguousarray(arrays[name].swapaxes(1, 2))
        assert len(tensors) > len(arrays)
        other = write_view(folder / "transposed", arrays, json.loads((source / "config.json").read_text()))
        case, golden = next(iter(cases_of("tiny")))
        found = np.asarray(gpt_oss.load(other)(golden["prompt"]))[-1]
        assert np.abs(found - golden["logits"][0]).max() / np.abs(golden["logits"]).max() < 1e-4, case


@test
def what_convert_quantised_runs():
    """Every matrix of a dense model in MXFP4, against the same decoded; off a mount and where it was written."""
    with scratch() as folder:
        made = convert(checkpoint("llama"), folder / "made", "--format", "safetensors", "--quantize", "mxfp4")
        ids = np.load(KIT / "goldens/llama/short.prompt.npy")
        with tensorport.mount(made) as mount:
            view, name = mount.open(), "model.layers.0.mlp.down_proj.weight"
            assert view.info(name).dtype == "mxfp4" and mount.open("float32").info(name).dtype == "float32"
            expected = np.asarray(gpt_oss.load(mount.open("float32"))(ids))
            for each in (view, tensorport.open(made)):
                found = np.asarray(gpt_oss.load(each)(ids))
                assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@test
def configurations_are_transformers_s():
    names = {"num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads",
             "max_position_embeddings": "context", "tie_word_embeddings": "tied", "num_local_experts": "n_experts",
             "num_experts_per_tok": "n_experts_per_token"}
    for case in json.loads((KIT / "goldens/configs.json").read_text()):
        expected, config = case["expected"], read_config(case["config"], case["generation"])
        for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim", "rms_norm_eps", "attention_bias",
                     "mlp_bias", "swiglu_limit", "swiglu_alpha", *names):
            assert getattr(config, names.get(name, name)) == expected[name], (case["name"], name)
        assert list(config.windows) == expected["windows"], case["name"]
        assert config.rope.kind == expected["rope_type"] and np.isclose(config.rope.concentration, expected["concentration"])
        frequencies = np.array(expected["inv_freq"], np.uint32).view(np.float32)
        assert np.allclose(config.rope.inverse_frequencies, frequencies, rtol=2.4e-7, atol=0), case["name"]
        tables = rope_tables(config.rope, max(expected["positions"]) + 1)
        for table, name in zip(tables, ("cos", "sin"), strict=True):
            golden = np.array(expected[name], np.uint32).view(np.float32).reshape(-1, table.shape[1])
            assert np.abs(table[expected["positions"]] - golden).max() < 1e-4, (case["name"], name)
        assert (config.bos_token, list(config.eos_tokens)) == (expected["bos"], expected["eos"]), case["name"]
        said = expected.get("sampling", {})
        if said.get("do_sample") is False:
            assert config.sampling.temperature == 0
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            if said.get("do_sample") and said[name] is not None:
                assert getattr(config.sampling, name) == said[name], (case["name"], name)


# ---------------------------------------------------------------- what does not fit

@test
def what_does_not_fit_is_said():
    source = checkpoint("tiny")
    with scratch() as folder:
        view = convert(source, folder / "view", "--precision", "source", "--mxfp4", "packed")
        config = json.loads((source / "config.json").read_text())
        def no(kind, change, *says):
            (view / "config.json").write_text(json.dumps({**config, **change}))
            raises(kind, lambda: gpt_oss.load(view), *says)
        no(ValueError, {"model_type": "mamba", "architectures": None}, "model_type", "mamba")
        no(ValueError, {"architectures": ["LlamaForCausalLM"]}, "architectures")
        no(ValueError, {"hidden_size": 129}, "model.layers.0.", "129", "128")
        no(ValueError, {"num_local_experts": 9}, "model.layers.0.mlp.router.weight", "[9, 128]", "[8, 128]")
        no(ValueError, {"intermediate_size": 64}, "gate_up_proj", "[8, 128, 128]")
        no(ValueError, {"num_attention_heads": 6}, "q_proj")
        no(ValueError, {"num_key_value_heads": 3}, "multiple")
        no(ValueError, {"num_experts_per_tok": 99}, "99")
        no(ValueError, {"num_hidden_layers": 2.5}, "num_hidden_layers", "2.5")
        no(ValueError, {"layer_types": ["full_attention"]}, "layer_types")
        no(ValueError, {"quantization_config": {"quant_method": "gptq"}}, "mxfp4")
        no(ValueError, {"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "longrope")
        no(ValueError, {"rope_scaling": {"rope_type": "yarn"}}, "yarn", "factor")
        no(ValueError, {"hidden_act": "gelu"}, "gelu")
        no(KeyError, {"num_hidden_layers": 5, "layer_types": None}, "model.layers.4.input_layernorm.weight")
        (view / "config.json").unlink()
        raises(FileNotFoundError, lambda: gpt_oss.load(view), "config.json")
        for part in ("mlp_experts_down_proj_bias", "self_attn_sinks", "self_attn_o_proj_bias"):
            arrays = {name: value for name, value in read(source).items() if name.replace(".", "_") != f"model_layers_1_{part}"}
            lacking = write_view(folder / part, arrays, config)
            raises(KeyError, lambda: gpt_oss.load(lacking), "model.layers.1.")


# ---------------------------------------------------------------- generating

_mount = []


def small_model():
    """One for all that follows: what it compiled stays."""
    if not _mount:
        mount = tensorport.mount(checkpoint("tiny"))
        _mount.extend((mount, gpt_oss.load(mount)))
    return _mount[1]


@test
def a_token_compiles_nothing():
    model, seen = small_model(), []
    got = model.generate([5, 6, 7], 30, seed=3, stop_ids=(), on_token=seen.append)
    assert seen == got.tokens and len(seen) == 30 and got.stop == "length"
    generator = model._generator
    compiled = [f._cache_size() for f in (generator._read, generator._first, generator._following)]
    for temperature, seed in ((0.5, 1), (1.5, 2), (0.1, 3)):
        model.generate([1, 2, 3, 4], 40, seed=seed, temperature=temperature, stop_ids=())
    assert [f._cache_size() for f in (generator._read, generator._first, generator._following)] == compiled == [1, 1, 1]


@test
def options_decide_what_is_written():
    model = small_model()
    def run(n=12, **options):
        return model.generate([5, 6, 7], n, stop_ids=(), **options).tokens
    greedy = run(temperature=0)
    assert run(seed=4) == run(seed=4) and len({tuple(run(seed=seed)) for seed in range(5)}) == 5
    assert run(seed=1, top_k=1) == run(seed=2, top_p=0.0) == greedy
    assert run(temperature=0, repetition_penalty=1.0) == greedy
    long = run(120, temperature=0, repetition_penalty=1e9)  # nothing that was seen comes again
    assert len(set(long)) == len(long) and not set(long) & {5, 6, 7}
    assert model.generate([5, 6, 7], 12, temperature=0, stop_ids=[greedy[4]]) == (greedy[:greedy.index(greedy[4]) + 1], "eos")
    assert model.generate([5], 0).tokens == []


@test
def defaults_are_the_generation_config_s():
    with scratch() as folder:
        view = convert(checkpoint("tiny"), folder / "view", "--precision", "source", "--mxfp4", "packed")
        config = json.loads((view / "config.json").read_text())
        config.update(num_hidden_layers=1, layer_types=["sliding_attention"])
        (view / "config.json").write_text(json.dumps(config))
        model = gpt_oss.load(view)
        greedy = model.generate([5, 6, 7], 9, temperature=0, stop_ids=()).tokens
        (view / "generation_config.json").write_text(json.dumps({"do_sample": False, "eos_token_id": [3, greedy[5]]}))
        (view / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 6}))
        model = gpt_oss.load(view)
        assert model.generate([5, 6, 7], 9).stop == "context" and model.generate([5, 6, 7], 9).tokens == greedy[:3]
        raises(ValueError, lambda: model.generate(range(7)), "context", "6")
        (view / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 100}))
        assert gpt_oss.load(view).generate([5, 6, 7], 9) == (greedy[:greedy.index(greedy[5]) + 1], "eos")


@test
def bad_prompts_and_options_are_said():
    model = small_model()
    for prompt, says in (([], "at least one"), ([1088], "below 1088, found 1088 at index 0"), ([1, -1], "index 1"),
                         ([1.5], "float"), ([[1]], "(1, 1)")):
        raises(ValueError, lambda: model.generate(prompt), says)
    for options, says in (({"temperature": -1}, "temperature"), ({"top_p": 2}, "top_p"), ({"top_k": -1}, "top_k"),
                          ({"repetition_penalty": 0}, "repetition_penalty"), ({"min_p": float("nan")}, "min_p")):
        raises(ValueError, lambda: model.generate([1], **options), says)


@test
def the_cache_is_bounded():
    """A layer with a window keeps that many rows; another as many as there are tokens."""
    cache = small_model().module.cache(5000, jnp.bfloat16)
    rows = [layer.keys.shape[0] for layer in cache.layers]
    assert rows == [128, 5000, 128, 5000] and cache.layers[0].keys.dtype == jnp.bfloat16


# ---------------------------------------------------------------- choosing

def kept_by(weights, order, sampling):
    """The tokens that may be drawn, in numpy and by sorting."""
    by_rank = np.argsort(-order, kind="stable")
    if sampling.top_k:
        by_rank = by_rank[:sampling.top_k]
    sums = np.cumsum(weights[by_rank])
    by_rank = by_rank[:int(np.searchsorted(sums, sampling.top_p * sums[-1])) + 1]
    return {i for i in by_rank.tolist() if weights[i] >= sampling.min_p * weights.max()}


@test
def draws_follow_the_probabilities():
    """Which tokens, and how often."""
    n, draws = 1300, 6_000
    logits = np.random.default_rng(1).normal(size=n).astype(np.float32) * 3
    for sampling in (Sampling(seed=1), Sampling(temperature=0.5, seed=2), Sampling(top_k=7), Sampling(top_p=0.6),
                     Sampling(temperature=2, top_k=50, top_p=0.8), Sampling(min_p=0.1), Sampling(top_k=20, min_p=0.3, seed=9)):
        rules, sampler = new_sampler(sampling, n)
        pick = jax.jit(jax.vmap(lambda at: choose(jnp.asarray(logits), rules, sampler, at)[0]))
        counts = np.bincount(np.asarray(pick(jnp.arange(draws))), minlength=n)
        weights = np.exp((logits - logits.max()).astype(np.float64) / sampling.temperature)
        kept = kept_by(weights, logits, sampling)
        assert set(np.flatnonzero(counts).tolist()) <= kept, sampling
        p = np.zeros(n)
        p[list(kept)] = weights[list(kept)]
        p /= p.sum()
        large = p * draws > 20
        assert (np.abs(counts[large] - p[large] * draws) < 6 * np.sqrt(p[large] * draws)).all(), sampling


@test
def odd_logits_are_chosen_from():
    n = 600
    def one(logits, **how):
        rules, sampler = new_sampler(Sampling(**how), n)
        return int(choose(jnp.asarray(logits, jnp.float32), rules, sampler, 0)[0])
    flat, spike = np.zeros(n), np.full(n, -np.inf)
    spike[577] = -3
    for how in ({}, {"temperature": 0}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 1e-6}, {"min_p": 0.5}):
        assert one(spike, **how) == 577
        assert one(np.where(np.arange(n) == 5, 0, np.nan), **how) == 5
        assert 0 <= one(flat, **how) < n
    assert one(flat, temperature=0) == 0 and one(np.arange(n) * 1e30, temperature=1) == n - 1
    rules, sampler = new_sampler(Sampling(temperature=0, repetition_penalty=2.0), n)
    sampler = note(sampler, jnp.array([1, 2, 3, 4]), jnp.int32(3))
    logits = np.full(n, -9.0)
    logits[[1, 2, 3, 4]] = 8, 6, -4, 4.5
    token, sampler = choose(jnp.asarray(logits), rules, sampler, 0)
    assert int(token) == 4 and sampler.seen.sum() == 4  # 4, 3, -8, 4.5


# ---------------------------------------------------------------- text, the example

@test
def text_goes_in_and_comes_out():
    model = small_model()
    folder = KIT / "goldens/tiny"
    prompt, greedy = np.load(folder / "text.prompt.npy"), np.load(folder / "text.greedy.npy")
    text = model.decode(prompt)
    assert model.encode(text) == prompt.tolist()
    assert model.generate(text, len(greedy), temperature=0, stop_ids=()).tokens == greedy.tolist()
    assert model.decode([]) == "" and model.encode("<|return|>") == [1026]
    model.tokenizer, kept = None, model.tokenizer
    raises(ValueError, lambda: model.generate("text"), "tokenizer.json")
    model.tokenizer = kept


@test
def the_readme_s_example_writes_text():
    blocks = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert len(blocks[0].strip().splitlines()) <= 10 and "import tensorport" in blocks[0]
    with scratch() as folder:
        shutil.copytree(checkpoint("tiny"), folder / "gpt-oss-20b")
        program = f"import os; os.chdir({str(folder)!r})\n{blocks[0]}\nprint(len(answer.tokens), answer.stop)"
        lines = python(program, PATH=f"{os.environ['PATH']}").splitlines()
        assert re.fullmatch(r"\d+ (length|eos)", lines[-1]) and len("".join(lines[:-1])) > 0, lines


try:
    main()
finally:
    for mounted in _mount[:1]:
        mounted.unmount()
