"""Text to token ids and back.

By the package `tokenizers` where it is installed; else by the program `tpinfer tokenize`, which reads
the same tokenizer.json: $TPINFER, or from PATH. Neither is needed to work with ids.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Tokenizer"]


class Tokenizer:
    """Of the folder with a tokenizer.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = os.environ.get("TPINFER") or shutil.which("tpinfer")
        self._library: Any = None
        if importlib.util.find_spec("tokenizers") is not None:
            from tokenizers import Tokenizer as Library  # type: ignore[import-not-found]
            self._library = Library.from_file(str(folder / "tokenizer.json"))

    def encode(self, text: str) -> list[int]:
        """Special tokens are what their names say; none is added."""
        if self._library is not None:
            return self._library.encode(text, add_special_tokens=False).ids
        return json.loads(self._tpinfer(text, "--no-bos", "--json"))["tokens"]

    def decode(self, tokens: Iterable[int]) -> str:
        """Special tokens have no text."""
        ids = [int(token) for token in tokens]
        if self._library is not None:
            return self._library.decode(ids)
        return json.loads(self._tpinfer(",".join(map(str, ids)), "--decode", "--skip-special", "--json"))["text"]

    def chat(self, messages: Iterable[dict[str, str]], *options: str) -> list[int]:
        """The prompt of a conversation, [{"role": "user", "content": ...}], in the model's format; by the
        program only. `options`: of `tpinfer tokenize`, such as "--effort=low"."""
        return json.loads(self._tpinfer(json.dumps(list(messages)), "--chat", "--json", *options))["tokens"]

    def _tpinfer(self, text: str, *options: str) -> str:
        if self._program is None:
            raise RuntimeError("text needs the package `tokenizers` or the program tpinfer (on PATH, or named in $TPINFER); "
                               "token ids need neither")
        done = subprocess.run([self._program, "tokenize", *options, str(self.folder)], input=text.encode(),
                              capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode(errors="replace").strip())
        return done.stdout.decode(errors="replace")
