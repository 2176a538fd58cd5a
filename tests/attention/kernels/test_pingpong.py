"""The Gluon experiment of the notes still compiles on the installed Triton, with the figures that the notes draw upon. It is not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="needs triton")
EXPERIMENT = Path(__file__).parents[2] / "helpers" / "pingpong.py"

if not (Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm").exists():
    pytest.skip("this Triton comes without NVIDIA's tools", allow_module_level=True)


@pytest.mark.slow
def test_the_experiment_compiles_without_a_spill():
    environment = {name: item for name, item in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, EXPERIMENT], capture_output=True, text=True, check=True, env=environment)
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [(each["head_dim"], each["polynomial"]) for each in found] == [(64, False), (64, True), (128, False), (128, True)]
    for each in found:
        assert each["warps"] == 12
        assert each["spills"] == 0
        assert each["special"] == (1.5 if each["polynomial"] else 2.0)
        assert each["issue"] < (11.6 if each["polynomial"] else 10.0)
