"""A kernel repository: TanhMax attention for the models of whoever has the `kernels` package, and does not have this one.

It holds the same code for every backend, `build/torch-BACKEND/` with

* `__init__.py`, which compares the other file with the digests in `metadata.json` before it runs it: the `kernels` package does not;
* `tanhmax.py`, attention and kernels and what Transformers calls, made of this package's modules by `models.bundle`;
* `metadata.json`, which names the digests of both.

The digests find a file that was altered or arrived in part. Who can write to the repository can alter them too: only the hash of a commit
that was read pins what is run.
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..checkpoint import CONFIG
from ..doctor.report import Finding
from ..errors import some
from ..models.bundle import MODULES, TRITON, digest, joined, own_version

BACKENDS = ("cpu", "cuda", "rocm", "xpu", "metal")  # of torch; the code is the same, and does without Triton where there is none
VERSION, BRANCH = 1, "v1"  # which Transformers loads unless a revision is named
NAME, ENTRY_FILE, KERNEL_FILE, METADATA = "tanhmax", "__init__.py", "tanhmax.py", "metadata.json"
OWN = re.compile(r'^VERSION = "([^"\n]+)"\nDIGEST = "([0-9a-f]{64})"[^\n]*\n', re.MULTILINE)

# What a kernel holds of this package: all that computes, and what reads a model's code; none of its classes.
PARTS = ("functional", "settings", "attention/", "integration/serving", "integration/registration", "integration/detection/")
KERNEL_MODULES = (*(name for name in MODULES if name.startswith(PARTS)), "integration/hub_kernel")
CONDITIONS = TRITON | {
    "transformers": """\
if importlib.util.find_spec("transformers") is not None:
    # Not by import statements: a kernel imports torch alone, and runs without Transformers as `tanhmax_attention`.
"""
}

HEADER = '''\
"""TanhMax attention: what a kernel repository computes, in one file.

hf_tanhmax writes it from its own modules, so do not edit it: `__init__.py` would refuse it. Licence: Apache-2.0.
"""

VERSION = "{version}"
DIGEST = "{digest}"  # sha256 of what follows this line
'''

ENTRY = '''\
"""TanhMax attention for Hugging Face Transformers, by `attn_implementation="owner/name"`: see README.md of this repository.

hf_tanhmax {version} wrote this. Licence: Apache-2.0.
"""

import base64
import functools
import hashlib
import json
from pathlib import Path

FOLDER, CODE = Path(__file__).parent, "{code}"


def _digest(name: str) -> str:
    return base64.b64encode(hashlib.sha256((FOLDER / name).read_bytes()).digest()).decode()


def _check() -> None:
    files = (json.loads((FOLDER / "metadata.json").read_text(encoding="utf-8")).get("digest") or {{}}).get("files") or {{}}
    for name, own in (("__init__.py", None), ("tanhmax.py", CODE)):
        if name not in files:
            raise ImportError(
                f"metadata.json of this TanhMax kernel has no digest of {{name}}, so it is not run: pin a commit that was read"
            )
        if _digest(name) != files[name] or own not in (None, files[name]):
            raise ImportError(
                f"{{name}} of this TanhMax kernel is not the file whose digest its metadata have, so it is not run: delete it from "
                "the cache and load it again, or pin a commit that was read"
            )


_check()

from .tanhmax import await_call, flash_attn_forward, supports_flash_attn, tanhmax, tanhmax_attention  # noqa: E402

await_call()  # by the model that Transformers loads this for

__all__ = ["flash_attn_forward", "supports_flash_attn", "tanhmax", "tanhmax_attention"]
'''

CARD = """\
---
library_name: kernels
license: apache-2.0
tags:
- kernels
- attention
- tanhmax
---

# TanhMax attention as a kernel

Attention weights with a sign, w_i = sinh(a_i) / sum_j cosh(a_j), for any architecture of Transformers that asks its attention interface,
where hf_tanhmax is not installed. Written by hf_tanhmax {version}.

```python
from transformers import AutoModel  # with the `kernels` package: pip install "transformers[kernels]"

model = AutoModel.from_pretrained("google-bert/bert-base-uncased", attn_implementation="{repo}", allow_all_kernels=True)
```

`"{repo}@COMMIT"` pins a commit that was read. Settings are attributes of the config that the attention modules have (of a model of
several parts, such as CLIP, `config.vision_config`): `model.config.tanhmax_polarity = 0.2`, `model.config.tanhmax_shift = "balanced"`,
`model.config.tanhmax_heads = [0, 1]`.

**It is no checkpoint format.** `save_pretrained` forgets the kernel, so that what it saves loads as softmax unless `attn_implementation` is
given again. `hf_tanhmax.convert` makes a checkpoint that remembers it.

**Some architectures ignore it and stay softmax**: those that never ask the attention interface, such as MPNet and DeBERTa. The first model
that loads this kernel in a process is refused at its first call if it is of these; a later one computes softmax without a word, as the
kernel is never called: `hf-tanhmax doctor FOLDER` says which do. A model of which only a part computes softmax by itself is refused.
"""


@functools.cache
def kernel_source() -> str:
    """The text of `tanhmax.py`."""
    body = f"\n{joined(KERNEL_MODULES, conditions=CONDITIONS)}\n"
    return HEADER.format(version=own_version(), digest=digest(body)) + body


def write_kernel(into: Path, *, repo_id: str) -> None:
    """Write a kernel repository, to be published or to be read.

    Args:
        into: an empty folder.
        repo_id: the repository, which its card names.
    """
    code, entry = _own_files()
    (into / "README.md").write_text(CARD.format(version=own_version(), repo=repo_id), encoding="utf-8")
    for backend in BACKENDS:
        folder = into / "build" / f"torch-{backend}"
        folder.mkdir(parents=True)
        (folder / KERNEL_FILE).write_bytes(code)
        (folder / ENTRY_FILE).write_bytes(entry)
        files = {name: _encoded((folder / name).read_bytes()) for name in (ENTRY_FILE, KERNEL_FILE)}
        metadata = {
            "id": f"_{NAME}_{backend}_{hashlib.sha256(entry + code).hexdigest()[:8]}",  # unique, and a module's name
            "name": NAME,
            "version": VERSION,
            "license": "Apache-2.0",
            "python-depends": [],
            "backend": {"type": backend},
            "digest": {"algorithm": "sha256", "files": files},
        }
        (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def builds_in(paths: Iterable[str]) -> list[str]:
    """The names of the builds among the files of a repository."""
    return sorted({path.split("/")[1] for path in paths if path.startswith("build/") and path.count("/") > 1})


def is_own(path: Path) -> bool:
    """Whether a `tanhmax.py` says that this package wrote it, of whatever version and unaltered or not."""
    return OWN.search(path.read_text(encoding="utf-8", errors="replace")) is not None


def is_kernel(folder: Path) -> bool:
    """Whether a folder is that of a kernel repository, or looks like one, and not of a model."""
    return any(folder.glob("build/torch*")) and not (folder / CONFIG).exists()


def check_kernel(folder: Path) -> list[Finding]:
    """Compare the builds of a kernel repository with their digests, and with what this version writes. Nothing of it is run.

    Args:
        folder: of the repository, with `build` in it.
    """
    return [finding for build in sorted(folder.glob("build/*")) if build.is_dir() for finding in _check_build(build)]


def _check_build(build: Path) -> Iterator[Finding]:
    subject = f"build/{build.name}"
    files = _digests(build / METADATA)
    if not files:
        yield Finding("error", subject, f"has no digest in {METADATA}, so nobody can tell whether it is whole; hf-tanhmax did not write it")
        return
    there = {path.relative_to(build).as_posix() for path in build.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    altered = sorted(name for name in there.intersection(files) if _encoded((build / name).read_bytes()) != files[name])
    missing, unknown = set(files) - there, there - {*files, METADATA}
    for names, say in ((altered, "differs from its digest"), (missing, "is missing"), (unknown, "has no digest")):
        if names:
            yield Finding("error", subject, f"{some(names)} {say}; do not load it, and push the kernel again")
    if altered or missing or unknown:
        return
    found = OWN.search((build / KERNEL_FILE).read_text(encoding="utf-8", errors="replace")) if KERNEL_FILE in files else None
    if found is None:
        yield Finding("error", subject, f"is no TanhMax kernel: hf-tanhmax writes a {KERNEL_FILE} that says its version and digest")
        return
    if ((build / KERNEL_FILE).read_bytes(), (build / ENTRY_FILE).read_bytes()) == _own_files():
        yield Finding("ok", subject, "is exactly what this version writes")
    elif found[1] != own_version():
        yield Finding("warning", subject, f"says that hf_tanhmax {found[1]} wrote it, and this is {own_version()}; push the kernel again")
    else:
        yield Finding("error", subject, f"says that hf_tanhmax {found[1]} wrote it, but is not what this {found[1]} writes; push it again")


def _own_files() -> tuple[bytes, bytes]:
    """`tanhmax.py` and the `__init__.py` that checks it, as this version writes them."""
    code = kernel_source().encode()
    return code, ENTRY.format(version=own_version(), code=_encoded(code)).encode()


def _digests(path: Path) -> dict[str, str]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))["digest"]["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _encoded(content: bytes) -> str:
    """A digest as the `kernels` package writes it."""
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
