"""The published file in other states, and processes without the plugin that run it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from hf_tanhmax.models.remote_code import source


def renewed(text: str) -> str:
    """A file whose digest is right again."""
    start, _, body = re.split(r'(?<=DIGEST = ")([0-9a-f]{64})', text)
    return start + hashlib.sha256(body.partition("\n")[2].encode()).hexdigest() + body


def older(text: str) -> str:
    return renewed(re.sub(r'(?<=VERSION = ")[^"]+', "0.0.1", text))


def doubled() -> str:
    """A file of another version, whose attention is twice what it should be."""
    output = "output.transpose(1, 2).contiguous(), signed"
    assert source().count(f"return {output}") == 1
    return older(source().replace(f"return {output}", f"return 2.0 * {output}"))


def assert_reads(reader: str, folder: Path, role: str) -> None:
    """Run one of the readers in this folder, with warnings as errors; it writes down what is wrong."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / f"modules_{role}"), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    interpreter = [f"ignore::{kind}:triton.runtime.interpreter" for kind in ("RuntimeWarning", "DeprecationWarning")]
    strict = [word for rule in ("error", *interpreter) for word in ("-W", rule)]
    command = [sys.executable, *strict, str(Path(__file__).with_name(reader)), str(folder), role]
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    wrong = {name: found for name, found in json.loads((folder / f"{role}.json").read_text()).items() if found}
    assert wrong == {}, "\n".join(wrong.values())
