#!/usr/bin/env python3
"""Write tokenizer.json files of the kinds that other models have, each with vectors.

    make_tokenizer_variants.py OUT

Makes OUT/VARIANT/tokenizer.json and OUT/VARIANT/vectors.jsonl with Hugging Face's tokenizers (0.23),
which is the reference: {"text", "ids", "bare", "ordinary", "decoded", "shown"} are the ids with what
the file puts around a text, without, and without special tokens, and the text that the ids decode
to, with special tokens and without. Training depends on the texts of the local Python library:
the stored files are kept, not made again.
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<s>", "</s>", "<unk>", "<|begin_of_text|>", "<|eot_id|>", "<l>", "<r>", "<lr>", "word", "the"]
ODD = ["", " ", "  ", "\n", " a", "a ", "  a  b  ", "▁", "▁a ▁b", "a▁▁b", "é", "e\u0301", "日本語", "👩‍💻", "\x00",
       "<0x41>", "<s>", " <s> ", "a<s>b</s>c", "<s><s>", "½⅓²", "\u180e\u0085\u2028", "don't DON'T ſ's",
       "x = 12345 * 67.8\n\n\treturn x  \n", "l<l>l <r> r\t<lr> words word the theword", "\u00a0\u3000x", "x <r>   \t  y", "<r>\t   é<lr>   <l>  "]


def sources():
    lib = Path(json.__file__).resolve().parent
    return [path.read_text() for path in sorted(lib.parent.glob("*.py"))[:60]]


def texts(rng, corpus):
    out = list(ODD)
    for _ in range(60):
        source = rng.choice(corpus)
        at = rng.randrange(max(1, len(source) - 300))
        out.append(source[at:at + rng.randint(1, 300)])
    letters = "aAbB e\u0301'’.12\n\t ▁éß的日😀\u200dقи"
    for _ in range(120):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 25)))
        if rng.random() < 0.6:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(["", " ", "\n"]) + rng.choice(SPECIAL) + text[at:]
        out.append(text)
    return out


def train(tokenizer, corpus, size, **more):
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, show_progress=False, **more))


def byte_level(corpus, size, splits, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits) if len(splits) > 1 else splits[0]
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, corpus, size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tokenizer


def gpt2(corpus):
    tokenizer = byte_level(corpus, 1200, [pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def llama3(corpus):
    tokenizer = byte_level(corpus, 1500, [
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)], ignore_merges=True)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                                  "<|end_header_id|>", "<|eot_id|>"])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B",
                                      special_tokens=[("<|begin_of_text|>", begin)])])
    return tokenizer


def flags(corpus):
    tokenizer = byte_level(corpus, 700, [
        pre_tokenizers.Digits(True), pre_tokenizers.Punctuation("merged_with_previous"),
        pre_tokenizers.Split(Regex(r"\w+"), "contiguous", True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.add_tokens([
        AddedToken("<l>", lstrip=True, special=True, normalized=False),
        AddedToken("<r>", rstrip=True, special=True), AddedToken("<lr>", lstrip=True, rstrip=True),
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("the", single_word=True, lstrip=True), AddedToken("é", normalized=False),
        AddedToken("  ", normalized=False)])
    return tokenizer


def sentence_piece(corpus, legacy, **model):
    """As Llama 2 (legacy) and newer Mistrals are converted: trained with words, used without."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **model))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    first = ["<unk>", "<s>", "</s>"]
    if model["byte_fallback"]:
        first += [f"<0x{byte:02X}>" for byte in range(256)]
    train(tokenizer, corpus, 1300, limit_alphabet=90, special_tokens=first)
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = file["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    if legacy:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                               decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                               decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return tokenizer


VARIANTS = {
    "gpt2": gpt2, "llama3": llama3, "flags": flags,
    "llama2": lambda corpus: sentence_piece(corpus, True, fuse_unk=True, byte_fallback=True),
    "mistral": lambda corpus: sentence_piece(corpus, False, fuse_unk=True, byte_fallback=True),
    "unknown": lambda corpus: sentence_piece(corpus, True, fuse_unk=True, byte_fallback=False),
}


def vector(tokenizer, text):
    ids = tokenizer.encode(text).ids
    bare = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = True
    ordinary = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    return {"text": text, "ids": ids, "bare": bare, "ordinary": ordinary,
            "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "shown": tokenizer.decode(ids, skip_special_tokens=True)}


def write(folder, tokenizer, name, vectors):
    folder.mkdir(parents=True, exist_ok=True)
    file = json.loads(tokenizer.to_str())
    if name == "gpt2":  # the older spelling
        file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(file, ensure_ascii=False, separators=(",", ":")) + "\n")
    tokenizer = Tokenizer.from_str(json.dumps(file))
    lines = [json.dumps(vector(tokenizer, text)) + "\n" for text in vectors]
    (folder / "vectors.jsonl").write_text("".join(lines))


def main():
    corpus = sources()
    for name, make in VARIANTS.items():
        rng = random.Random(name)
        write(Path(sys.argv[1]) / name, make(corpus), name, texts(rng, corpus))


if __name__ == "__main__":
    main()
