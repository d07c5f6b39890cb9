"""GPT-OSS and Llama in numpy and float64, and goldens made with them: for what transformers' goldens do
not show.

Written from the paper's formulas, one token after the other where that is clearer; only small models.
test_mutations.py holds it to the goldens of transformers before it uses it."""

import json
import math

import numpy as np
from support import mxfp4_decode


def decoded(tensors):
    """Every tensor as float64; X_blocks and X_scales become X."""
    out = {name: value for name, value in tensors.items() if not name.endswith(("_blocks", "_scales"))}
    for name in tensors:
        if name.endswith("_blocks"):
            root = name.removesuffix("_blocks")
            out[root] = mxfp4_decode(tensors[name], tensors[root + "_scales"])
    return {name: value.astype(np.float64) for name, value in out.items()}


def llama3(s, plain):
    """Waves longer than the old context are stretched, those far shorter kept, with a blend between."""
    old, low, high = s["original_max_position_embeddings"], s["low_freq_factor"], s["high_freq_factor"]
    turns = old * plain / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return plain / s["factor"] * (1 - keep) + plain * keep


def rotary(c, n):
    """cos and sin [n, pairs]: plain, llama3 or YaRN."""
    s, d, base = c["rope_scaling"], c["head_dim"], c["rope_theta"]
    pair = np.arange(d // 2)
    plain = base ** (-2.0 * pair / d)
    if s is None or s["rope_type"] == "llama3":
        angle = np.arange(n)[:, None] * (plain if s is None else llama3(s, plain))
        return np.cos(angle), np.sin(angle)
    old = s["original_max_position_embeddings"]
    low, high = (d * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (s["beta_fast"], s["beta_slow"]))
    if s.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    ramp = np.clip((pair - low) / (high - low or 0.001), 0, 1)
    angle = np.arange(n)[:, None] * (plain / s["factor"] * ramp + plain * (1 - ramp))
    concentration = 0.1 * math.log(s["factor"]) + 1
    return np.cos(angle) * concentration, np.sin(angle) * concentration


def rotated(x, cos, sin):
    a, b = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def norm(c, x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"]) * weight


def attention(c, w, x, cos, sin, window):
    n, d = len(x), c["head_dim"]
    q, k, v = ((x @ w[f"{name}_proj.weight"].T + w.get(f"{name}_proj.bias", 0)).reshape(n, -1, d) for name in "qkv")
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    groups = q.shape[1] // k.shape[1]
    out = np.zeros_like(q)
    for i in range(n):
        seen = slice(max(0, i - window + 1), i + 1)
        for h in range(q.shape[1]):
            scores = np.append(k[seen, h // groups] @ q[i, h] / math.sqrt(d), w["sinks"][h] if "sinks" in w else -np.inf)
            e = np.exp(scores - scores.max())
            out[i, h] = e[:-1] / e.sum() @ v[seen, h // groups]
    return out.reshape(n, -1) @ w["o_proj.weight"].T + w.get("o_proj.bias", 0)


def dense(w, x):
    gate, up = (x @ w[f"{name}_proj.weight"].T for name in ("gate", "up"))
    return (gate / (1 + np.exp(-gate)) * up) @ w["down_proj.weight"].T


def experts(c, w, x):
    if "router.weight" not in w:
        return dense(w, x)
    out = np.zeros_like(x)
    limit = c["swiglu_limit"]
    for t, logits in enumerate(x @ w["router.weight"].T + w["router.bias"]):
        chosen = np.argsort(-logits, kind="stable")[:c["num_experts_per_tok"]]
        share = np.exp(logits[chosen] - logits[chosen].max())
        for e, weight in zip(chosen, share / share.sum()):
            both = w["experts.gate_up_proj"][e] @ x[t] + w["experts.gate_up_proj_bias"][e]
            gate, up = np.minimum(both[0::2], limit), np.clip(both[1::2], -limit, limit)
            inner = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
            out[t] += weight * (w["experts.down_proj"][e] @ inner + w["experts.down_proj_bias"][e])
    return out


def forward(c, w, ids):
    """Logits [n, vocabulary]. `w`: decoded()."""
    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
    x = w["model.embed_tokens.weight"][ids]
    cos, sin = rotary(c, len(ids))
    with np.errstate(invalid="ignore", over="ignore"):
        for i in range(c["num_hidden_layers"]):
            layer = part(f"model.layers.{i}.")
            slides = c.get("layer_types", [""] * (i + 1))[i] == "sliding_attention"
            window = c["sliding_window"] if slides else len(ids)
            attn = {name.removeprefix("self_attn."): value for name, value in layer.items()}
            mlp = {name.removeprefix("mlp."): value for name, value in layer.items()}
            x = x + attention(c, attn, norm(c, x, layer["input_layernorm.weight"]), cos, sin, window)
            x = x + experts(c, mlp, norm(c, x, layer["post_attention_layernorm.weight"]))
        return norm(c, x, w["model.norm.weight"]) @ w["lm_head.weight"].T


def write_goldens(folder, c, tensors, prompt, steps=2):
    """A folder of one case, "one", whose continuation has `steps` tokens."""
    w, ids, rows = decoded(tensors), list(prompt), []
    for _ in range(steps):
        rows.append(forward(c, w, np.array(ids))[-1])
        ids.append(int(rows[-1].argmax()))
    folder.mkdir(parents=True)
    np.save(folder / "one.prompt.npy", np.array(prompt, np.int32))
    np.save(folder / "one.greedy.npy", np.array(ids[len(prompt):], np.int32))
    np.save(folder / "one.logits.npy", np.array(rows, np.float32))
    margins = [0.0 if np.isnan(row).any() else float(np.diff(np.sort(row)[-2:])[0]) for row in rows]
    (folder / "manifest.json").write_text(json.dumps({"cases": [{"name": "one", "margins": margins}]}))
    return folder
