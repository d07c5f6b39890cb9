#!/usr/bin/env python3
"""What transformers makes of config.json: sizes, windows, tokens, rotary embedding.

    make_config_goldens.py OUT.json        (transformers 5, torch)

Each case is {"name", "config", "generation", "expected"}; `inv_freq`, `cos` and `sin` are float32 as
their bits. cos and sin belong to `positions`.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, GenerationConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.ministral.modeling_ministral import MinistralRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

ROTARY = {"gpt_oss": GptOssRotaryEmbedding, "llama": LlamaRotaryEmbedding, "mistral": MistralRotaryEmbedding,
          "ministral": MinistralRotaryEmbedding}
POSITIONS = [0, 1, 2, 7, 127, 128, 129, 1000, 4095, 4096]

DIMENSIONS = {"hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
              "vocab_size": 300, "rms_norm_eps": 1e-5}
GPT_OSS = {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], **DIMENSIONS, "num_key_value_heads": 2,
           "num_local_experts": 4, "num_experts_per_tok": 2}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **DIMENSIONS}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], **DIMENSIONS, "num_key_value_heads": 4}
YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 4096, "truncate": False}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 1024}


def cases():
    """(name, config, generation_config or None)"""
    yield "gpt_oss: as little as there can be", GPT_OSS, None
    yield "gpt_oss: as published", {**GPT_OSS, "head_dim": 64, "rope_scaling": YARN, "rope_theta": 150000,
                                    "sliding_window": 128, "swiglu_limit": 7.0, "attention_bias": True,
                                    "eos_token_id": 3, "experts_per_token": 2, "initial_context_length": 4096}, None
    yield "gpt_oss: the other spelling", {**GPT_OSS, "rope_parameters": {**YARN, "rope_theta": 1e6, "factor": 4.0}}, None
    yield "gpt_oss: truncate", {**GPT_OSS, "rope_scaling": {**YARN, "truncate": True}}, None
    yield "gpt_oss: truncate by default", {**GPT_OSS, "rope_scaling": {k: v for k, v in YARN.items() if k != "truncate"}}, None
    yield "gpt_oss: truncate null", {**GPT_OSS, "rope_scaling": {**YARN, "truncate": None}}, None
    yield "gpt_oss: both spellings", {**GPT_OSS, "rope_scaling": {**YARN, "factor": 2.0}, "rope_parameters": YARN}, None
    yield "gpt_oss: null, then the other", {**GPT_OSS, "rope_scaling": None, "rope_parameters": {**YARN, "beta_fast": 16}}, None
    yield "gpt_oss: theta in both places", {**GPT_OSS, "rope_theta": 5000.0,
                                            "rope_parameters": {**YARN, "rope_theta": 777.0}}, None
    yield "gpt_oss: not stretched", {**GPT_OSS, "rope_scaling": {"rope_type": "default"}}, None
    yield "gpt_oss: parameters without a type", {**GPT_OSS, "rope_parameters": {"rope_theta": 999.5}}, None
    yield "gpt_oss: other layers", {**GPT_OSS, "layer_types": ["full_attention", "full_attention", "sliding_attention"],
                                    "sliding_window": 5, "head_dim": 26, "swiglu_limit": 3.5, "swiglu_alpha": 1.5,
                                    "attention_bias": False, "tie_word_embeddings": True}, None
    yield "llama: head by rule", {**LLAMA, "head_dim": None, "num_key_value_heads": None}, None
    yield "gpt_oss: no kv heads", {k: v for k, v in {**GPT_OSS, "num_attention_heads": 16}.items()
                                   if k != "num_key_value_heads"}, None
    yield "llama: as little as there can be", LLAMA, None
    yield "llama: llama3", {**LLAMA, "rope_scaling": LLAMA3, "rope_theta": 500000.0, "max_position_embeddings": 131072,
                            "num_key_value_heads": 2, "head_dim": 64}, None
    yield "llama: llama3, old key", {**LLAMA, "rope_scaling": {**{k: v for k, v in LLAMA3.items() if k != "rope_type"},
                                                               "type": "llama3"}}, None
    yield "llama: llama3, context by default", {**LLAMA, "max_position_embeddings": 512, "rope_scaling": {
        k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}}, None
    yield "llama: linear", {**LLAMA, "rope_scaling": {"type": "linear", "factor": 3.0}}, None
    yield "llama: yarn", {**LLAMA, "rope_scaling": {**YARN, "factor": 16.0}, "head_dim": 128}, None
    yield "llama: yarn, scales", {**LLAMA, "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.0}}, None
    yield "llama: yarn, one scale", {**LLAMA, "rope_scaling": {**YARN, "mscale": 0.707}}, None
    yield "llama: yarn, its own factor", {**LLAMA, "rope_scaling": {**YARN, "attention_factor": 1.25}}, None
    yield "llama: yarn, factor by the contexts", {**LLAMA, "rope_scaling": {**YARN, "factor": None},
                                                  "max_position_embeddings": 16384}, None
    yield "llama: yarn, narrow ramp", {**LLAMA, "rope_scaling": {**YARN, "beta_fast": 2, "beta_slow": 2}}, None
    yield "llama: yarn, outer context", {**LLAMA, "rope_scaling": YARN, "original_max_position_embeddings": 2048}, None
    yield "llama: yarn, zero turns", {**LLAMA, "rope_scaling": {**YARN, "beta_fast": 0, "beta_slow": 0}}, None
    yield "llama: empty scaling", {**LLAMA, "rope_scaling": {}, "rope_theta": 123456.0}, None
    yield "llama: biases, tied", {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
                                  "hidden_act": "silu", "eos_token_id": [5, 6, 7], "bos_token_id": 4}, None
    yield "llama: no tokens", {**LLAMA, "eos_token_id": None, "bos_token_id": None}, None
    yield "mistral: as little as there can be", MISTRAL, None
    yield "mistral: no window", {**MISTRAL, "sliding_window": None}, None
    yield "mistral: window", {**MISTRAL, "sliding_window": 17, "head_dim": 16, "rope_theta": 1e6}, None
    yield "mistral: layer types", {**MISTRAL, "sliding_window": 17, "layer_types": [
        "sliding_attention", "full_attention", "sliding_attention"]}, None
    yield "generation: sampling", {**LLAMA, "eos_token_id": 9}, {
        "eos_token_id": [11, 12], "bos_token_id": 10, "do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40,
        "min_p": 0.05, "repetition_penalty": 1.1}
    yield "generation: greedy", {**GPT_OSS, "eos_token_id": 9}, {"do_sample": False}


def bits(array):
    return np.ascontiguousarray(array, np.float32).view(np.uint32).reshape(-1).tolist()


def windows(config):
    kinds = getattr(config, "layer_types", None)
    if config.model_type == "mistral" or kinds is None:
        kinds = ["sliding_attention" if config.model_type == "mistral" else "full_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or 0
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def expected(config, generation):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        c = AutoConfig.from_pretrained(folder)
        g = None
        if generation is not None:
            (Path(folder) / "generation_config.json").write_text(json.dumps(generation))
            g = GenerationConfig.from_pretrained(folder)
    rotary = ROTARY[c.model_type](c)
    cos, sin = rotary(torch.zeros(1), torch.tensor([POSITIONS]))
    half = rotary.inv_freq.numel()
    eos = g.eos_token_id if g is not None and g.eos_token_id is not None else c.eos_token_id
    bos = g.bos_token_id if g is not None and g.bos_token_id is not None else c.bos_token_id
    out = {name: getattr(c, name) for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")}
    out |= {name: getattr(c, name, 0) for name in (
        "num_local_experts", "num_experts_per_tok", "attention_bias", "mlp_bias", "swiglu_limit", "swiglu_alpha")}
    out |= {"windows": windows(c), "rope_type": c.rope_parameters["rope_type"], "concentration": rotary.attention_scaling,
            "inv_freq": bits(rotary.inv_freq), "positions": POSITIONS, "cos": bits(cos[0, :, :half]),
            "sin": bits(sin[0, :, :half]), "bos": bos, "eos": [] if eos is None else eos if isinstance(eos, list) else [eos]}
    out["head_dim"] = c.head_dim or c.hidden_size // c.num_attention_heads  # ministral leaves it None
    if g is not None:
        out["sampling"] = {name: getattr(g, name) for name in (
            "do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    return out


def main():
    out = [{"name": name, "config": config, "generation": generation, "expected": expected(config, generation)}
           for name, config, generation in cases()]
    Path(sys.argv[1]).write_text("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")
    print(f"{len(out)} cases")


if __name__ == "__main__":
    main()
