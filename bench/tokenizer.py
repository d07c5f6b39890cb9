"""Text to tokens on one core: bench/tokenizer against Hugging Face's tokenizers, same file, same
texts, and the same tokens, or there is nothing to compare."""

import importlib.util
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

from bench import Skipped
from measure import Line, in_turns

TOP = Path(__file__).resolve().parents[1]
KIT = TOP / "tests/kit/tokenizer"
O200K = TOP.parent / "shared/refkit/tokenizer/full/tokenizer.json.xz"
ENOUGH = 5.0  # MB/s on one core, whatever the other does
DOCUMENT = 1 << 16


def _tokenizers(bench, folder):
    """Names and files."""
    if bench.options.tokenizer:
        yield bench.options.tokenizer.name, bench.options.tokenizer
        return
    if O200K.exists():
        path = folder / "o200k.json"
        path.write_bytes(lzma.decompress(O200K.read_bytes()))
        yield "o200k", path
    else:
        yield "8k words", KIT / "small/tokenizer.json"
    yield "Llama 2's kind, 1k words", KIT / "variants/llama2/tokenizer.json"


def _documents(text):
    return [text[at:at + DOCUMENT] for at in range(0, len(text), DOCUMENT)]


def _texts():
    library = Path(json.__file__).resolve().parents[1]
    code = "".join(path.read_text(errors="ignore") for path in sorted(library.glob("*.py"))[:120])
    licences = "".join(path.read_text(errors="ignore")
                       for path in sorted(Path("/usr/share/common-licenses").glob("*")))
    vectors = [json.loads(line)["text"] for line in (KIT / "vectors.jsonl").read_text().splitlines()]
    yield "Python", _documents(code[:3_000_000])
    if licences:
        yield "English", _documents((licences * 8)[:2_000_000])
    yield "many languages", _documents(" ".join(vectors * 20).replace("\0", "")[:500_000])


def _pin():
    """Both on the same core; the other ones are for what else the machine does."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _run(command, path, texts, seconds):
    result = subprocess.run([*command, str(path), str(texts), str(seconds)], check=True,
                            stdout=subprocess.PIPE, preexec_fn=_pin)
    return json.loads(result.stdout)


def _rate(command, path, texts, seconds):
    figures = _run(command, path, texts, seconds)
    return figures["bytes"] / figures["seconds"] / 1e6


def tokenizer(bench):
    if importlib.util.find_spec("tokenizers") is None:
        raise Skipped("the Python package tokenizers is missing")
    ours = [bench.programs["tokenizer"]]
    theirs = [sys.executable, "-B", str(Path(__file__).with_name("tokenizer_worker.py"))]
    folder = bench.folder("disk")
    for kind, path in _tokenizers(bench, folder):
        for name, documents in _texts():
            texts = folder / "texts"
            texts.write_bytes("".join(document + "\0" for document in documents).encode())
            first, other = (_run(command, path, texts, 0) for command in (ours, theirs))
            if (first["tokens"], first["sum"]) != (other["tokens"], other["sum"]):
                raise RuntimeError(f"{kind}, {name}: the tokens differ: {first}, {other}")
            a, b = in_turns(min(bench.pairs, 5),
                            lambda path=path, texts=texts: _rate(ours, path, texts, 0.3),
                            lambda path=path, texts=texts: _rate(theirs, path, texts, 0.3))
            yield Line(f"tokens, {kind}, {name}", a, b, other="tokenizers", unit="MB/s", target=1.0)
            yield Line(f"tokens, {kind}, {name}, by itself", a, unit="MB/s", target=ENOUGH)
        yield Line(f"opening {kind}", [first["opening"]], [other["opening"]], other="tokenizers",
                   unit="s", target=1.0, at_most=True)
