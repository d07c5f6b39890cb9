"""A model whose every token depends on the one before it alone, as it is told: it speaks harmony without
having learned it. Its layers add nothing; the embeddings are rows of a Hadamard matrix, so that the
logits are exactly those that were asked for.

    write(folder, chain({"word": ...}))
"""

import json
import math
import shutil

import numpy as np
from support import KIT, checkpoint, read, write_view

TINY = KIT / "tokenizer/tiny"
VOCABULARY = json.loads((TINY / "tokenizer.json").read_text())["model"]["vocab"]
CONTROL = {"<|startoftext|>": 1022, "<|endoftext|>": 1023, "<|return|>": 1026, "<|constrain|>": 1027,
           "<|channel|>": 1029, "<|start|>": 1030, "<|end|>": 1031, "<|message|>": 1032, "<|call|>": 1036}
SURE = 40.0  # the logit of what is certain; what is not allowed has 0
# As the tokenizer cuts "analysis", and so that the two have no token in common.
ANALYSIS, FINAL = ["an", "al", "y", "si", "s"], ["fi", "n", "a", "l"]
LAST_OF_ASSISTANT = "t"


def token(name):
    return CONTROL[name] if name in CONTROL else VOCABULARY[name.replace(" ", "Ġ")]


def harmony(words, ends, analysis=0.5):
    """Messages of words, in the channel analysis or final. `ends`: the probability of <|end|> and of
    <|return|> after a word. What follows a word does not depend on which: they are one class."""
    chain = {(LAST_OF_ASSISTANT,): {"<|channel|>": 1},
             ("<|start|>",): {"<|channel|>": 1},
             ("<|end|>",): {"<|start|>": 1},
             ("<|channel|>",): {ANALYSIS[0]: analysis, FINAL[0]: 1 - analysis},
             ("<|message|>",): {word: 1 / len(words) for word in words},
             tuple(words): {**{word: (1 - sum(ends)) / len(words) for word in words},
                            "<|end|>": ends[0], "<|return|>": ends[1]}}
    for name in (ANALYSIS, FINAL):
        for one, following in zip(name, [*name[1:], "<|message|>"], strict=True):
            chain[one,] = {following: 1}
    return chain


def _hadamard(n):
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def write(folder, chain):
    """A view of the model; `chain`: for each class of tokens, what follows with which probability."""
    source = checkpoint("tiny")
    tensors = {name: value for name, value in read(source).items()
               if not name.startswith("model.layers.") or name.startswith("model.layers.0.")}
    embedding, head = np.zeros((2, *tensors["lm_head.weight"].shape), np.float32)
    codes = _hadamard(embedding.shape[1])
    assert len(chain) < len(codes)
    embedding[:] = codes[-1]
    for code, (members, following) in zip(codes, chain.items(), strict=False):
        for name in members:
            embedding[token(name)] = code
        for name, probability in following.items():
            if probability > 0:
                head[token(name)] += (SURE + math.log(probability)) / len(code) * code
    tensors["model.embed_tokens.weight"], tensors["lm_head.weight"] = embedding, head
    tensors["model.norm.weight"] = np.ones(embedding.shape[1], np.float32)
    for name, value in tensors.items():
        if "o_proj" in name or "down_proj_bias" in name or "down_proj_blocks" in name:
            tensors[name] = np.zeros_like(value)
    config = json.loads((source / "config.json").read_text())
    config.update(num_hidden_layers=1, layer_types=["sliding_attention"])
    write_view(folder, tensors, config)
    for name in ("generation_config.json", "tokenizer.json"):
        shutil.copy(source / name, folder)
    return folder
