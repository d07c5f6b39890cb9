#!/usr/bin/env python3
"""Writes the weights of a GPT-OSS checkpoint as a GGUF file, so that llama.cpp can be measured beside
us with the same weights: MXFP4 experts and BF16 matrices keep their numbers, what is small becomes
float32. The file has no vocabulary, which llama-bench does not need. See README.md.

    write_gguf.py CHECKPOINT OUTPUT.gguf        (needs numpy and gguf)
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np

BF16, MXFP4 = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.MXFP4
F32 = gguf.GGMLQuantizationType.F32
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PARTS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
         "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.router": "ffn_gate_inp"}
PIECE = 1 << 26  # bytes at a time


class Checkpoint:
    """Arrays of all shards, mapped."""

    def __init__(self, folder):
        self.places = {}
        for path in sorted(folder.glob("*.safetensors")):
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    self.places[name] = (path, 8 + length + entry["data_offsets"][0], entry)

    def __getitem__(self, name):
        path, offset, entry = self.places[name]
        dtype = {"BF16": np.uint16, "U8": np.uint8}[entry["dtype"]]
        return np.memmap(path, dtype, "r", offset, tuple(entry["shape"]))

    def small(self, name):
        """As float32."""
        return (self[name].astype(np.uint32) << 16).view(np.float32)


def interleave(blocks, scales):
    """One expert in ggml's blocks: the scale, then nibbles j and j + 16 of a block in byte j, which in
    the checkpoint has nibbles 2 j and 2 j + 1."""
    nibbles = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)
    packed = nibbles[..., :16] | nibbles[..., 16:] << 4
    whole = np.concatenate([scales[..., None], packed], -1)
    return np.ascontiguousarray(whole.reshape(*whole.shape[:-2], -1))


def tensors(checkpoint, n_layers):
    """(name, type, shape of the numbers, function that gives the bytes in pieces)"""
    def small(name):
        return F32, checkpoint[name].shape, lambda: [checkpoint.small(name)]

    def matrix(name):
        array = checkpoint[name]
        rows = max(1, PIECE // (2 * array.shape[1]))
        return BF16, array.shape, lambda: (array[i:i + rows] for i in range(0, len(array), rows))

    def experts(name, rows):
        blocks, scales = checkpoint[f"{name}_blocks"], checkpoint[f"{name}_scales"]
        shape = (*scales[:, rows].shape[:2], 32 * scales.shape[2])
        return MXFP4, shape, lambda: (interleave(b[rows], s[rows]) for b, s in zip(blocks, scales))

    for name, new in TOP.items():
        yield f"{new}.weight", *(small if name == "model.norm" else matrix)(f"{name}.weight")
    for i in range(n_layers):
        layer = f"model.layers.{i}."
        for name, new in PARTS.items():
            exact = small if "norm" in name or "router" in name else matrix
            yield f"blk.{i}.{new}.weight", *exact(f"{layer}{name}.weight")
            if f"{layer}{name}.bias" in checkpoint.places:
                yield f"blk.{i}.{new}.bias", *small(f"{layer}{name}.bias")
        yield f"blk.{i}.attn_sinks.weight", *small(f"{layer}self_attn.sinks")
        for part, rows, name in (("gate", slice(0, None, 2), "gate_up"), ("up", slice(1, None, 2), "gate_up"),
                                 ("down", slice(None), "down")):
            root = f"{layer}mlp.experts.{name}_proj"
            bias = np.ascontiguousarray(checkpoint.small(f"{root}_bias")[:, rows])
            yield f"blk.{i}.ffn_{part}_exps.weight", *experts(root, rows)
            yield f"blk.{i}.ffn_{part}_exps.bias", F32, bias.shape, lambda bias=bias: [bias]


def describe(writer, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    rope = config.get("rope_scaling") or {}
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE)
    writer.add_tokenizer_model("no_vocab")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "gpt_oss":
        sys.exit(f"{folder}: expected model_type gpt_oss, found {config['model_type']}")
    checkpoint = Checkpoint(folder)
    writer = gguf.GGUFWriter(output, "gpt-oss")
    describe(writer, config)
    everything = list(tensors(checkpoint, config["num_hidden_layers"]))
    sizes = {F32: (4, 1), BF16: (2, 1), MXFP4: (17, 32)}
    for name, kind, shape, _ in everything:
        size, block = sizes[kind]
        nbytes = int(np.prod(shape, dtype=np.int64)) // block * size
        writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    for _, _, _, pieces in everything:
        for piece in pieces():
            piece.tofile(file)
        writer.write_padding(file, file.tell())
    writer.close()


main()
