"""Checks that run in several processes at once, over gloo, one launch for all checks of a file.

A file of `tests/two_processes` is both what pytest collects and what the processes run: it marks functions with `checks`, asks `launch` for
what became of them, and ends in `main`. Every check runs in all processes.
"""

import faulthandler
import json
import os
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

ROOT = Path(__file__).parents[2]
SECONDS = 300  # of a launch; a single collective has 60


class Checks(dict):
    """Functions by their names; as a decorator it adds one."""

    def __call__(self, function):
        self[function.__name__] = function
        return function


def launch(file, folder, processes=2, **environment):
    """Run a file in so many processes; for each of them, what became of every check."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        str(file),
        str(folder),
    ]
    path = [str(ROOT), str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")]
    here = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(command, env=os.environ | here | environment, capture_output=True, text=True, timeout=SECONDS + 30, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads((Path(folder) / f"{process}.json").read_text()) for process in range(processes)]


def passed(name, found):
    for process, outcomes in enumerate(found):
        assert outcomes[name] == "passed", f"process {process}: {outcomes[name]}"


def main(checks, folder, start=None):
    """Run every check in this process, and write what became of it.

    The process ends without its teardown, in which gloo hangs now and then, once both have written.
    """
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    (start or (lambda: dist.init_process_group("gloo", timeout=timedelta(seconds=60))))()
    found = {}
    for name, function in checks.items():
        try:
            function()
            found[name] = "passed"
        except Exception:
            found[name] = traceback.format_exc()
    (Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)


class raises:  # noqa: N801
    """`pytest.raises` without pytest, for sentences that all processes say."""

    def __init__(self, error, *sentences):
        self.error, self.sentences = error, sentences

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert kind is not None, f"nothing raised: {self.sentences}"
        assert isinstance(error, self.error), repr(error)
        for sentence in self.sentences:
            assert sentence in str(error), str(error)
        return True
