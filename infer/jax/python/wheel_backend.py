"""Builds the wheel (PEP 517): the package as `make` left it, the library among it.

A backend of our own, since the wheel is nothing but these files with three of metadata: pip then needs
no other package to build it, nor a network, and the tag says what the library was built for.
"""

import base64
import hashlib
import sysconfig
import tomllib
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = ("*.py", "*.so", "py.typed")


def _tag():
    """Any Python 3; this machine if there is a library."""
    native = any((HERE / "tensorport").glob("*.so"))
    return "py3-none-" + (sysconfig.get_platform().replace("-", "_").replace(".", "_") if native else "any")


def _metadata(project):
    yield "Metadata-Version: 2.1"
    yield f"Name: {project['name']}"
    yield f"Version: {project['version']}"
    yield f"Summary: {project['description']}"
    yield f"Requires-Python: {project['requires-python']}"
    for requirement in project["dependencies"]:
        yield f"Requires-Dist: {requirement}"
    for extra, requirements in project.get("optional-dependencies", {}).items():
        yield f"Provides-Extra: {extra}"
        for requirement in requirements:
            yield f'Requires-Dist: {requirement}; extra == "{extra}"'
    yield "Description-Content-Type: text/markdown"
    yield ""
    yield (HERE / "README.md").read_text(encoding="utf-8")


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """The name of the file that is written there."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stem, tag = f"{project['name']}-{project['version']}", _tag()
    files = {f"tensorport/{path.name}": path.read_bytes()
             for pattern in FILES for path in sorted((HERE / "tensorport").glob(pattern))}
    files[f"{stem}.dist-info/METADATA"] = "\n".join(_metadata(project)).encode()
    files[f"{stem}.dist-info/WHEEL"] = (f"Wheel-Version: 1.0\nGenerator: tensorport\nRoot-Is-Purelib: "
                                        f"{str(tag.endswith('any')).lower()}\nTag: {tag}\n").encode()
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{stem}.dist-info/RECORD"] = f"{record}{stem}.dist-info/RECORD,,\n".encode()
    name = f"{stem}-{tag}.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)
    return name


def _digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
