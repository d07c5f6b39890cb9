#!/usr/bin/env python3
"""`tensorport synth` against the kit's make_checkpoint.py, byte for byte, and its refusals.

Prints TAP. Environment: TP_TEST_SRCDIR (top of the sources), TP_TEST_BUILDDIR (where the
program `tensorport` is). Needs numpy and ml_dtypes for the comparisons made here.
"""

import hashlib
import importlib.util
import json
import math
import os
import pty
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KIT = Path(os.environ["TP_TEST_SRCDIR"]).resolve() / "tests" / "kit"
PROGRAM = Path(os.environ["TP_TEST_BUILDDIR"]).resolve() / "tensorport"
MID_BYTES = 904_182_528


class Skip(Exception):
    pass


def synth(*arguments, **keywords):
    return subprocess.run([PROGRAM, "synth", *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, **keywords)


def must_synth(*arguments, **keywords):
    done = synth(*arguments, **keywords)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- against the stored hashes

def published(name, with_tokenizer):
    """{file: SHA-256} of a checkpoint of the kit."""
    files = {}
    for line in (KIT / "goldens" / "CHECKPOINTS.sha256").read_text().splitlines():
        digest, path = line.split()
        folder, file = path.split("/")
        if folder == name and (with_tokenizer or not ("token" in file)):
            files[file] = digest
    return files


def check_published(work, name, arguments, tokenizer=None):
    out = work / name
    if tokenizer:
        arguments = [*arguments, "--tokenizer", KIT / "tokenizer" / tokenizer]
    must_synth(out, *arguments)
    found = {p.name: sha256(p) for p in out.iterdir()}
    assert found == published(name, tokenizer is not None), sorted(found)


def test_tiny(work):
    check_published(work, "tiny", [], "tiny")


def test_small(work):
    check_published(work, "small", ["--preset", "small"], "small")


def test_llama(work):
    check_published(work, "llama", ["--arch", "llama"], "tiny")


def test_mistral(work):
    check_published(work, "mistral", ["--arch=mistral"], "tiny")


def test_without_tokenizer(work):
    check_published(work, "tiny", ["--preset", "tiny"])


def test_mid(work):
    if shutil.disk_usage(work).free < 2 * MID_BYTES:
        raise Skip("less than 1.8 GB free")
    check_published(work, "mid", ["--preset", "mid"])


# ---------------------------------------------------------------- against the kit's program

def check_kit(work, *arguments, tokenizer=None):
    for module in ("numpy", "ml_dtypes"):
        if importlib.util.find_spec(module) is None:
            raise Skip(f"no Python module {module}")
    ours, theirs = work / "ours", work / "theirs"
    extra = ["--tokenizer", KIT / "tokenizer" / tokenizer] if tokenizer else []
    must_synth(ours, *arguments, *extra)
    subprocess.run([sys.executable, KIT / "make_checkpoint.py", theirs, *arguments], check=True,
                   stdout=subprocess.DEVNULL)
    assert sorted(os.listdir(ours)) == sorted(os.listdir(theirs))
    for path in ours.iterdir():
        expected = (theirs / path.name).read_bytes()
        if path.suffix == ".json":  # shows the first difference
            for line in zip(path.read_text().splitlines(), expected.decode().splitlines()):
                assert line[0] == line[1], (path.name, line)
        assert path.read_bytes() == expected, path.name


def settings(*fields):
    return [word for field in fields for word in ("--set", field)]


def some_reals():
    """Numbers of all sizes, and short ones."""
    draw = random.Random(1)
    reals = [struct.unpack("<d", draw.randbytes(8))[0] for _ in range(1000)]
    reals += [draw.randrange(10000) * 10.0 ** draw.randrange(-12, 20) for _ in range(500)]
    return json.dumps([x for x in reals if math.isfinite(x)])


KIT_CASES = {
    "another seed": ["--seed", "1"],
    "a seed of 64 bits": ["--seed", "12345678901234567890"],
    "the largest seed of one word": ["--seed", "4294967295"],
    "another width": settings("hidden_size=96", "num_experts_per_tok=2"),
    "a width that leaves the head no room": settings("hidden_size=32", "intermediate_size=64"),
    "float16": ["--dtype", "F16"],
    "float32": ["--dtype", "F32"],
    "float32, dense": ["--arch", "llama", "--dtype", "F32"],
    "one file": ["--shards", "1"],
    "five files": ["--shards", "5"],
    "a file for each tensor": ["--shards", "79"],
    "tied embeddings": settings("tie_word_embeddings=true"),
    "tied embeddings, dense": ["--arch", "mistral", *settings("tie_word_embeddings=true")],
    "twelve layers": settings("num_hidden_layers=12", "head_dim=16", "num_key_value_heads=4"),
    # 90 x 46603 elements end in the middle of a random word, where the kit begins a new one.
    "head drawn in two steps": ["--arch", "llama", *settings("hidden_size=90", "vocab_size=50000")],
    "files and layers": settings("shards=3", "num_local_experts=5", "layer_types=[]"),
    "another vocabulary": settings("tokenizer=full", "vocab_size=1091", "eos_token_id=7"),
    "JSON of all kinds": settings(
        "rope_scaling.factor=8.5", "rope_scaling.beta_fast=16", "rms_norm_eps=1E-6",
        "rope_theta=1e16", "initializer_range=0.0001", "swiglu_limit=1e-5", "use_cache=null",
        "quantization_config.deep={\"a\": [], \"b\": {}, \"c\": [[1, 2.50], [-0, -0.0]]}",
        "names={\"x\": 1, \"y\": 2, \"x\": 3}", "text=plain text, \"quoted\" \\ and é",
        "escapes=\"\\u00e9\\ud83d\\ude00\\u0007\\t\\n\\/\\\\\"", "empty=", "equals=a=b",
        "large=123456789012345678901234567890", "edge=9007199254740993",
        "reals=[1e15, 1e16, 123456789.125, 1.7976931348623157e308, 5e-324, 0.1e1, 1e22]",
        "no_json=[1,]", "no_number=01", "spaces= 4 "),
    "many reals": settings(f"reals={some_reals()}"),
    "files counted from zero": ["--preset", "120b", *settings(
        "hidden_size=64", "intermediate_size=32", "vocab_size=1500", "num_local_experts=4",
        "num_attention_heads=2", "num_key_value_heads=1")],
}


def kit_test(arguments):
    tokenizer = "tiny" if "120b" not in arguments and "tokenizer=full" not in arguments else None
    return lambda work: check_kit(work, *arguments, tokenizer=tokenizer)


# ---------------------------------------------------------------- behaviour

def test_threads(work):
    """The bytes do not depend on the number of threads."""
    processor = min(os.sched_getaffinity(0))
    must_synth(work / "one", "--preset", "small",
               preexec_fn=lambda: os.sched_setaffinity(0, {processor}))
    found = {p.name: sha256(p) for p in (work / "one").iterdir()}
    assert found == published("small", False)


def test_empty_folder(work):
    out = work / "empty"
    out.mkdir()
    done = must_synth(out)
    assert done.stdout.startswith(f"{out}: 79 tensors, 2006368 bytes in 2 files, "), done.stdout
    assert done.stdout.endswith(" s\n") and done.stdout.count("\n") == 1, done.stdout
    done = must_synth(work / "single", "--shards", "1")
    assert " in 1 file, " in done.stdout, done.stdout


def test_quiet(work):
    done = must_synth(work / "quiet", "--quiet")
    assert done.stdout == ""


def test_progress(work):
    """A progress line is shown on a terminal, and erased."""
    for extra in ([], ["--quiet"]):
        ours, theirs = pty.openpty()
        done = subprocess.run([PROGRAM, "synth", work / f"out{len(extra)}", *extra],
                              stdout=subprocess.DEVNULL, stderr=theirs)
        os.write(theirs, b".")  # so that there is something to read
        shown = ""
        while not shown.endswith("."):
            shown += os.read(ours, 1 << 16).decode()
        os.close(ours)
        os.close(theirs)
        assert done.returncode == 0
        if extra:
            assert shown == ".", shown
        else:
            assert "100 %, 0.0 of 0.0 GB" in shown and shown.endswith("\r\x1b[K."), shown


def test_help(work):
    done = must_synth("--help")
    for option in ("preset", "arch", "seed", "shards", "dtype", "set", "tokenizer", "words",
                   "quiet"):
        assert f"--{option}" in done.stdout, option


def check_refused(status, arguments, *words, **keywords):
    done = synth(*arguments, **keywords)
    assert done.returncode == status, (done.returncode, done.stderr, arguments)
    assert done.stdout == "", done.stdout
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("tensorport synth: "), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_folder_in_use(work):
    out = work / "used"
    out.mkdir()
    (out / "precious").write_text("mine")
    check_refused(1, [out], str(out), "not empty")
    assert os.listdir(out) == ["precious"] and (out / "precious").read_text() == "mine"
    check_refused(1, [out / "precious"], "precious")
    assert (out / "precious").read_text() == "mine"
    check_refused(1, [work / "no" / "such"], str(work / "no"))


def test_usage(work):
    out = work / "out"
    check_refused(2, [], "OUTPUT")
    check_refused(2, [out, "second"], "OUTPUT")
    check_refused(2, [out, "--preset", "huge"], "--preset", "tiny, small, mid, 20b, 120b", "huge")
    check_refused(2, [out, "--arch", "gpt2"], "--arch", "llama")
    check_refused(2, [out, "--dtype", "F64"], "--dtype", "BF16")
    check_refused(2, [out, "--seed", "-1"], "--seed")
    check_refused(2, [out, "--shards", "0"], "--shards")
    check_refused(2, [out, "--shards", "80"], "80", "79")
    check_refused(2, [out, "--colour"], "--colour")
    for setting, *words in (
            ["hidden_size=100", "32"], ["hidden_size=wide", "hidden_size"], ["hidden_size", "FIELD"],
            ["hidden_size=64.0", "hidden_size"], ["=1", "FIELD"], ["vocab_size=66", "66"],
            ["num_hidden_layers=0", "num_hidden_layers"], ["model_type.x=1", "model_type"],
            ["no.such=1", "\"no\""], ["tokenizer=large", "tokenizer"],
            ["x=\"\\u0000\"", "NUL"],
            ["tie_word_embeddings=maybe", "true or false"], ["num_local_experts=[8]", "num_local_experts"]):
        check_refused(2, [out, "--set", setting], *words)
    big = settings("vocab_size=16777216", "hidden_size=16777216", "intermediate_size=16777216",
                   "num_local_experts=16777216")
    check_refused(2, [out, *big], "2^63")
    assert not out.exists()


def test_tokenizer_folder(work):
    out, folder = work / "out", work / "tokenizer"
    check_refused(1, [out, "--tokenizer", folder], str(folder))
    folder.mkdir()
    (folder / "sub").mkdir()
    (folder / "real").write_bytes(bytes(range(256)) * 2000)
    (folder / "link").symlink_to("real")
    (folder / "empty").touch()
    must_synth(out, "--tokenizer", folder)
    assert {"real", "link", "empty"} < set(os.listdir(out)) and not (out / "sub").exists()
    assert not (out / "link").is_symlink()
    assert (out / "link").read_bytes() == (out / "real").read_bytes() == bytes(range(256)) * 2000
    (folder / "config.json").write_text("{}")
    check_refused(1, [work / "other", "--tokenizer", folder], str(folder / "config.json"))
    (folder / "config.json").unlink()
    (folder / "dangling").symlink_to("nowhere")
    check_refused(1, [work / "other", "--tokenizer", folder], "dangling")
    assert not (work / "other").exists()


def byte_characters():
    """Of byte-level BPE, as GPT-2's encoder.py makes them."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {byte: chr(byte) for byte in seen}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(256 + sum(b not in seen for b in range(byte)))
    return characters


def test_words(work):
    for number, arguments in enumerate(([], ["--preset=small"], ["--arch=llama"], ["--set", "vocab_size=12345"])):
        out = work / f"words-{number}"
        must_synth(out, "--words", *arguments)
        plain = work / f"plain-{number}"
        must_synth(plain, *arguments)
        assert {p.name for p in out.iterdir()} - {p.name for p in plain.iterdir()} == {"tokenizer.json"}
        assert all(sha256(p) == sha256(out / p.name) for p in plain.iterdir())
        tokenizer = json.loads((out / "tokenizer.json").read_text())
        vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
        special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        n_text = min(special.values())
        assert sorted(vocabulary.values()) == list(range(n_text))
        assert all(vocabulary[c] < 256 for c in byte_characters().values())
        # each word is the merge of two that come before it, in the order of the ids
        assert len(merges) == n_text - 256
        for id_, (first, second) in enumerate(merges, 256):
            assert vocabulary[first + second] == id_ and vocabulary[first] < id_ and vocabulary[second] < id_
        generation = json.loads((out / "generation_config.json").read_text())
        if "--arch=llama" in arguments:
            assert special == {"<s>": generation["bos_token_id"], "</s>": generation["eos_token_id"]}
        else:
            ends = [special[f"<|{name}|>"] for name in ("return", "endoftext", "call")]
            assert sorted(ends) == sorted(generation["eos_token_id"])
            assert special["<|startoftext|>"] == generation["bos_token_id"]
            assert {"<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|constrain|>"} < set(special)
    check_refused(2, [work / "small", "--words", "--set", "vocab_size=300"], "256 bytes", "vocab_size")
    check_refused(1, [work / "both", "--words", "--tokenizer", KIT / "tokenizer/tiny"], "tokenizer.json")


def test_disk_full(work):
    disk = work / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if mount.returncode != 0:
        raise Skip("cannot mount a tmpfs")
    try:
        check_refused(1, [disk / "out"], "model-0000", "No space left on device")
        assert os.listdir(disk) == []
        check_refused(1, [disk], "No space left on device")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_file_size_limit(work):
    for limit, file in ((1 << 19, "model-0000"), (100, "config.json")):
        check_refused(1, [work / "out"], file, "File too large",
                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        assert not (work / "out").exists()


def test_interrupt(work):
    if shutil.disk_usage(work).free < 2 * MID_BYTES:
        raise Skip("less than 1.8 GB free")
    out = work / "out"
    process = subprocess.Popen([PROGRAM, "synth", out, "--preset", "mid"], stderr=subprocess.PIPE)
    while process.poll() is None and not list(out.glob("model-00003*.partial")):
        time.sleep(0.001)
    process.terminate()
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGTERM, process.returncode
    assert stderr == b"", stderr
    assert not out.exists()


def tests():
    for name, value in list(globals().items()):
        if name.startswith("test_"):
            yield name[5:].replace("_", " "), value
    for name, arguments in KIT_CASES.items():
        yield f"same as the kit: {name}", kit_test(arguments)


def run(number, name, test):
    """Prints the line of one test; True when it passed."""
    with tempfile.TemporaryDirectory(prefix="tp-synth-") as folder:
        try:
            test(Path(folder))
        except Skip as skip:
            print(f"ok {number} - {name} # SKIP {skip}", flush=True)
        except Exception as failure:
            for line in f"{type(failure).__name__}: {failure}".splitlines():
                print(f"# {line}")
            print(f"not ok {number} - {name}", flush=True)
            return False
        else:
            print(f"ok {number} - {name}", flush=True)
    return True


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # temporary folders go even then
    todo = list(tests())
    print(f"1..{len(todo)}", flush=True)
    passed = [run(i + 1, name, test) for i, (name, test) in enumerate(todo)]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
