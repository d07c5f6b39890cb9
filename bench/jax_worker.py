"""One part of bench/jax, in a process of its own: its memory is then its own, too.

    jax_worker.py PART < options.json > result.json

Options and results are what bench/jax says and wants. Rates are lists, one figure for each repetition
that counts; bytes are those of weights, as they are stored.
"""

import json
import os
import sys
import time

import numpy as np

ROWS, COLUMNS, EXPERTS = 5760, 2880, 16  # of gpt-oss-20b: gate and up of a layer
DENSE_ROWS, DENSE_LAYERS = 5120, 8  # queries, keys and values; both are more than most caches
SLOW = 5.0  # seconds: what takes longer is done once, and counts


def memory():
    """In bytes, the most that this process had at once, and what of it now is no file's."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {"peak": 1024 * int(fields["VmHWM"].split()[0]), "anonymous": 1024 * int(fields["RssAnon"].split()[0])}


def times(work, options):
    """Seconds of each repetition; work() waits for its results."""
    found = []
    for i in range(options["warm_up"] + options["repeat"]):
        start = time.perf_counter()
        work()
        spent = time.perf_counter() - start
        if i > 0 and spent > SLOW:
            return [spent]
        if i >= options["warm_up"]:
            found.append(spent)
    return found


def devices(_):
    import jax
    return {"jax": jax.__version__, "platform": jax.default_backend(), "device": jax.devices()[0].device_kind}


def open_view(options):
    """From nothing but the path to every tensor's name and shape."""
    import tensorport

    def look():
        view = tensorport.open(options["view"])
        return [view.info(name) for name in view]

    return {"seconds": times(look, options)}


# ---------------------------------------------------------------- operations

def _random_packed(random, *shape):
    import jax
    from tensorport.mxfp4 import MXFP4Array
    groups = (*shape[:-1], shape[-1] // 32)
    return MXFP4Array(jax.device_put(random.integers(0, 256, (*groups, 16), np.uint8)),
                      jax.device_put(random.integers(115, 125, groups, np.uint8)))


def _product_work(options, random):
    """Each name with weights [..], bytes, and what multiplies x with all of them in one call."""
    import jax
    import jax.numpy as jnp
    from tensorport import dense, mxfp4
    how = options["implementation"]
    packed = [_random_packed(random, ROWS, COLUMNS) for _ in range(EXPERTS)]
    plain = [jax.device_put(random.standard_normal((DENSE_ROWS, COLUMNS), np.float32)).astype(jnp.bfloat16) for _ in range(DENSE_LAYERS)]
    yield "mxfp4.matmul", packed, sum(w.nbytes for w in packed), lambda x, w: mxfp4.matmul(x, w, implementation=how)
    yield "dense.matmul", plain, sum(w.nbytes for w in plain), lambda x, w: dense.matmul(x, w, implementation=how)


def _chain(x, weights, multiply):
    """Each product waits for the one before, as in a model; otherwise XLA starts them together."""
    results = []
    for w in weights:
        results.append(multiply(x, w))
        x = x + 0 * results[-1][..., :1]
    return results


def products(options):
    import jax
    import jax.numpy as jnp
    random, found = np.random.default_rng(1), []
    for name, weights, size, multiply in _product_work(options, random):
        if options["implementation"] == "jnp" and jax.default_backend() == "cpu":
            weights, size = weights[:2], size * 2 // len(weights)  # too slow for a cache to matter
        all_of_them = jax.jit(lambda x, weights, multiply=multiply: _chain(x, weights, multiply))
        for n in options["batch"]:
            if name not in options["only"]:
                continue
            x = jax.device_put(random.standard_normal((n, COLUMNS), np.float32))
            seconds = times(lambda x=x: jax.block_until_ready(all_of_them(x, weights)), options)
            found.append({"case": name, "batch": n, "bytes": size, "seconds": seconds,
                          "multiply_adds": n * COLUMNS * sum(w.shape[0] for w in weights)})
    return {"cases": found + list(_codecs(options, random)), "memory": memory()}


def _codecs(options, random):
    """Quantising reads BF16, and what is decoded writes it: those bytes count."""
    import jax
    import jax.numpy as jnp
    from tensorport import mxfp4
    how = options["implementation"]
    values = jax.device_put(random.standard_normal((8 * ROWS, COLUMNS), np.float32)).astype(jnp.bfloat16)
    packed = mxfp4.quantize(values)
    for name, work in (("mxfp4.quantize", lambda: mxfp4.quantize(values, implementation=how).blocks),
                       ("mxfp4.dequantize", lambda: mxfp4.dequantize(packed, implementation=how))):
        if name in options["only"]:
            yield {"case": name, "batch": None, "bytes": values.nbytes,
                   "seconds": times(lambda work=work: jax.block_until_ready(work()), options)}


# ---------------------------------------------------------------- the model

class Steps:
    """The model's parts as functions under jit, with the weights as arguments."""

    def __init__(self, module):
        import jax
        from flax import nnx
        graph, state = nnx.split(module)
        self.weights, structure = jax.tree.flatten(state)
        self.module = module
        self._rebuild = lambda weights: nnx.merge(graph, jax.tree.unflatten(structure, weights))

    def jit(self, function, **options):
        import jax
        return jax.jit(lambda weights, *rest: function(self._rebuild(weights), *rest), **options)


def _prompts(options, vocabulary):
    """A prompt of each length: random ids, or as much as there is of the file's."""
    random = np.random.default_rng(2)
    given = options["prompt_ids"]
    return [np.resize(given, n) if given else random.integers(0, vocabulary, n) for n in options["lengths"]]


def _prefill(model, options):
    for ids in _prompts(options, model.config.vocab_size):
        seconds = times(lambda ids=ids: model.generate(ids, 1, temperature=0, stop_ids=[]), options)
        yield {"case": "prefill", "length": len(ids), "batch": 1, "tokens": len(ids), "seconds": seconds}


def _decode_one(model, options):
    """As a user has it: seconds from the first token to the last."""
    ids = _prompts({**options, "lengths": [16]}, model.config.vocab_size)[0]
    seconds = []
    for i in range(options["warm_up"] + options["repeat"]):
        at = []
        model.generate(ids, options["tokens"] + 1, temperature=0, stop_ids=[], on_token=lambda _, at=at: at.append(time.perf_counter()))
        if i >= options["warm_up"] or at[-1] - at[0] > SLOW:
            seconds.append(at[-1] - at[0])
        if at[-1] - at[0] > SLOW and i > 0:
            break
    return {"case": "decode", "length": len(ids), "batch": 1, "tokens": options["tokens"], "seconds": seconds}


def _decode_many(model, steps, n, options):
    """n texts, each with a cache of its own, by vmap: the weights are read once for all."""
    import jax
    import jax.numpy as jnp

    def one(module, cache, token):
        hidden, cache = module.step(token[None], cache, jnp.int32(1))
        return jnp.argmax(module.logits(hidden[0])).astype(jnp.int32), cache

    step = steps.jit(lambda module, caches, tokens: jax.vmap(lambda cache, token: one(module, cache, token))(caches, tokens),
                     donate_argnums=1)

    def work():
        caches = jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *a.shape)), model.module.cache(256))
        tokens = jnp.arange(n, dtype=jnp.int32)
        for _ in range(options["tokens"]):
            tokens, caches = step(steps.weights, caches, tokens)
        tokens.block_until_ready()

    return {"case": "decode", "length": 0, "batch": n, "tokens": n * options["tokens"], "seconds": times(work, options)}


def _bytes_of(variables):
    import jax
    from flax import nnx
    return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(variables)))


def _where_time_goes(model, steps, options):
    """Each kind of work of a step by itself, on all layers; bytes: weights that it reads."""
    import jax.numpy as jnp
    module, config = model.module, model.config
    x = jnp.ones((1, config.hidden_size), jnp.float32)
    cache = module.cache(256)

    def attention(module, x):
        return [layer.attention.step(layer.input_norm(x), cache.cos[:1], cache.sin[:1], of_layer, jnp.int32(0), jnp.int32(1))[0]
                for layer, of_layer in zip(module.layers, cache.layers, strict=True)]

    def mlp(module, x):
        return [layer.mlp(layer.mlp_norm(x), None) for layer in module.layers]

    share = config.n_experts_per_token / config.n_experts if config.n_experts else 1
    head = module.head if module.head is not None else module.embedding
    for name, function, size in (
            ("attention", attention, sum(_bytes_of(layer.attention) for layer in module.layers)),
            ("experts" if config.n_experts else "mlp", mlp, share * sum(_bytes_of(layer.mlp) for layer in module.layers)),
            ("head", lambda module, x: module.logits(x), _bytes_of(head))):
        import jax
        work = steps.jit(function)
        yield {"part": name, "bytes": size, "seconds": times(lambda work=work: jax.block_until_ready(work(steps.weights, x)), options)}


def model(options):
    from tensorport import gpt_oss
    start = time.perf_counter()
    model = gpt_oss.load(options["view"], implementation=options["implementation"])
    loaded = time.perf_counter() - start
    model.generate([0], 1, temperature=0)
    first = time.perf_counter() - start
    steps = Steps(model.module)
    cases = [_decode_one(model, options), *_prefill(model, options)]
    cases += [_decode_many(model, steps, n, options) for n in options["batch"] if n > 1]
    return {"load_seconds": loaded, "first_token_seconds": first, "cases": cases,
            "parts": list(_where_time_goes(model, steps, options)), "memory": memory()}


# ---------------------------------------------------------------- beside it

def transformers(options):
    """The checkpoint as transformers runs it, in BF16; MXFP4 is kept where it has kernels for it."""
    import torch
    from transformers import AutoModelForCausalLM
    device = "cuda" if torch.cuda.is_available() and options["platform"] != "cpu" else "cpu"
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options["checkpoint"], dtype=torch.bfloat16).to(device).eval()
    loaded, cases = time.perf_counter() - start, []

    def generate(ids, n):
        ids = torch.tensor(np.asarray(ids)[None], device=device)
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=False)
        if device == "cuda":
            torch.cuda.synchronize()

    prompts = _prompts(options, model.config.vocab_size)
    for ids in prompts:
        cases.append({"case": "prefill", "length": len(ids), "batch": 1, "tokens": len(ids),
                      "seconds": times(lambda ids=ids: generate(ids, 1), options)})
    one, many = (times(lambda n=n: generate(prompts[0][:16], n), options) for n in (1, options["tokens"] + 1))
    seconds = [max(b - min(one), 1e-9) for b in many]
    cases.append({"case": "decode", "length": 16, "batch": 1, "tokens": options["tokens"], "seconds": seconds})
    return {"load_seconds": loaded, "cases": cases, "parts": [], "memory": memory(), "device": device}


PARTS = {"devices": devices, "open": open_view, "products": products, "model": model, "transformers": transformers}


def main():
    options = json.load(sys.stdin)
    out = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no result
    result = PARTS[sys.argv[1]](options)
    with os.fdopen(out, "w") as file:
        json.dump(result, file)


main()
