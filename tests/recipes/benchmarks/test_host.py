"""Python per call of the kernels does not grow: counts of functions, which are the same in every run."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs triton")

# A few more than were counted with Python 3.11: other versions count some of C's functions otherwise.
MOST = {
    "decode": 109,
    "decode, padding": 151,
    "forward": 119,
    "forward, causal": 119,
    "forward, padding": 164,
    "forward, mask": 164,
    "forward, additive mask": 131,
    "forward, polarity per head": 136,
    "forward, balanced": 127,
}


@pytest.fixture(scope="module")
def counted():
    done = subprocess.run(
        [sys.executable, "-m", "recipes.benchmarks.host", "--counts"],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout)


def test_a_call_enters_few_functions(counted):
    assert counted["functions"].keys() == MOST.keys()
    assert not {name: count for name, count in counted["functions"].items() if count > MOST[name]}


def test_the_layers_of_a_forward_pass_read_their_mask_once(counted):
    masked = {name: count - 12 for name, count in counted["launches"].items() if "padding" in name or name.endswith("forward, mask")}
    assert masked == dict.fromkeys(masked, 1)
    assert {count for name, count in counted["launches"].items() if name not in masked} == {12}
