"""A ring of two and of four processes computes what one does, and says what it does not; and what needs no ring."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ring_ranks import checks_of

WORKER = Path(__file__).parents[1] / "helpers" / "ring_ranks.py"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of every check, in each of so many processes; all run in one launch."""

    @functools.cache
    def of(size):
        folder = tmp_path_factory.mktemp("ranks")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(size), str(WORKER), str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        except subprocess.TimeoutExpired:
            return [dict.fromkeys(checks_of(size), "the launch took longer than 240 seconds")] * size
        if done.returncode:
            return [dict.fromkeys(checks_of(size), done.stderr[-5000:])] * size
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("size", "name"), [(size, name) for size in (2, 4) for name in checks_of(size)])
def test_ranks(size, name, outcomes):
    for rank, found in enumerate(outcomes(size)):
        assert found[name] == "passed", f"rank {rank}: {found[name]}"
