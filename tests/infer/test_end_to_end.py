"""From nothing to text: a synthetic model, a mount, `tpinfer`; as the quick start does."""

import json
import re
import subprocess

from support import BUILD, Mount, main, scratch, test

WORD = re.compile(r" ([bdfgklmnprstvz][aeiou]){1,3}")
MODELS = {"gpt_oss": ["--preset", "small"], "llama": ["--arch", "llama", "--set", "vocab_size=6000"],
          "mistral": ["--arch", "mistral", "--set", "vocab_size=6000"]}


def must(program, *arguments, **how):
    return subprocess.run([BUILD / program, *map(str, arguments)], check=True, capture_output=True, text=True,
                          timeout=120, **{"stdin": subprocess.DEVNULL, **how}).stdout


def run(view, *options):
    return json.loads(must("tpinfer", "run", view, "--raw", "-p", "Once upon", "-n", 30, "--ignore-eos", "--json",
                           "--temp", 1, *options))


@test
def synthetic_models_write_words():
    for arch, options in MODELS.items():
        with scratch() as folder:
            model, copy = folder / "model", folder / "copy"
            must("tensorport", "synth", "-q", "--words", *options, model)
            with Mount(model) as mount:
                text = run(mount.path, "--seed", 7)
                assert len(text["tokens"]) == 30 and text["stop"] == "length", text
                assert len(WORD.findall(text["text"])) >= 15, text["text"]
                assert run(mount.path, "--seed", 7, "-t", 1)["tokens"] == text["tokens"]
                assert run(mount.path, "--seed", 8)["tokens"] != text["tokens"]
                ids = " ".join(map(str, text["tokens"]))
                assert must("tpinfer", "tokenize", "--decode", mount.path, input=ids, stdin=None).rstrip("\n") == text["text"]
            must("tensorport", "convert", "-q", "--precision", "bfloat16", model, copy)  # and without a mount
            assert run(copy, "--seed", 7)["tokens"] == text["tokens"]


main()
