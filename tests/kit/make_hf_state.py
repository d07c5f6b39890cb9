#!/usr/bin/env python3
"""Golden: what transformers itself has in memory after it loaded and decoded an MXFP4 checkpoint.

    make_hf_state.py CHECKPOINT OUT.json

Writes the name, shape, dtype and SHA-256 (little endian, row major) of each entry of the model's
state dict. A conversion to ordinary safetensors must hold exactly these. Needs torch and transformers.
"""

import hashlib
import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, Mxfp4Config


def describe(tensor):
    raw = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256(raw.tobytes()).hexdigest()}


def main():
    checkpoint, out = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=Mxfp4Config(dequantize=True))
    tensors = {name: describe(tensor) for name, tensor in model.state_dict().items()}
    with open(out, "w", encoding="utf-8") as stream:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(tensors.items()))
        stream.write(f'{{"transformers": "{transformers.__version__}", "torch": "{torch.__version__}", "tensors": {{\n'
                     f"{lines}\n}}}}\n")


main()
