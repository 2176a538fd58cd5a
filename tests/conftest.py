"""What every test stands on: poisoned uninitialised memory, one thread, no network, and Triton's interpreter where there is no GPU."""

import gc
import logging
import os
import re
import sys
from importlib import import_module

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are first imported

from loopback.fixture import hub, hub_here, impatient  # noqa: F401

from hf_tanhmax.attention.kernels import support
from hf_tanhmax.attention.kernels.schedule import Tile, tiles


def pytest_collection_modifyitems(items):
    """`slow_in_interpreter`: of such a test, the parameters that run the kernels are slow where Triton interprets them."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    for item in items:
        if item.get_closest_marker("slow_in_interpreter") and {"triton", "decode"} & set(re.findall(r"[a-z]+", item.name)):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _threads():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True, scope="session")
def _garbage_at_the_end():
    """What modules left is searched when Python ends, as some libraries complain of what is never freed."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _survivors_are_searched_once():
    """Every training collects garbage, which takes more than a second among two million objects of earlier modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def flushed_subnormals():
    """A process in which subnormal numbers count as 0, as users set it for speed."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(params=["kept", "flushed"])
def either_subnormals(request):
    """A process as it is, and one in which subnormal numbers count as 0."""
    if request.param == "flushed":
        request.getfixturevalue("flushed_subnormals")


def process_wide():
    """Settings of the process that code under test changes and must put back; of libraries that are imported."""
    settings = {
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "subnormals": bool(torch.tensor(1e-40).mul(2)),  # torch has no call that says whether they count as 0
    }
    if "datasets" in sys.modules:
        settings["bars of datasets"] = not sys.modules["datasets"].are_progress_bars_disabled()
    if "transformers" in sys.modules:
        said = sys.modules["transformers"].logging
        settings |= {"verbosity": said.get_verbosity(), "bars of transformers": said.is_progress_bar_enabled()}
        loading = ("transformers.modeling_utils", "transformers.utils.loading_report")
        settings |= {f"level of {name}": logging.getLogger(name).level for name in loading}
    return settings


@pytest.fixture(autouse=True)
def _process_as_before():
    """Nothing that a test changes in the process stays, be it by the test or by what it calls."""
    before = process_wide()
    yield
    changed = {name: (before[name], value) for name, value in process_wide().items() if name in before and before[name] != value}
    assert not changed, f"left behind in the process (before, after): {changed}"


@pytest.fixture(autouse=True)
def _poisoned_empty(monkeypatch):
    """Memory that nobody wrote is NaN, so that a result which depends on it is too."""

    def poisoned(function):
        def call(*args, **kwargs):
            tensor = function(*args, **kwargs)
            if tensor.is_floating_point() and not tensor.is_meta and type(tensor) is torch.Tensor and not tensor.requires_grad:
                tensor.fill_(float("nan"))
            return tensor

        return call

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 by 16 in the interpreter, so that small inputs have several blocks; on a GPU the tiles that are shipped."""
    if os.environ.get("TRITON_INTERPRET") == "1" and support.triton_missing() is None:
        monkeypatch.setattr(import_module("hf_tanhmax.attention.kernels.launch"), "tiles", lambda *_: (Tile(16, 16, 4, 1),))


@pytest.fixture
def shipped_tiles(monkeypatch, small_tiles):
    """The tiles of the table again, in the interpreter too."""
    if support.triton_missing() is None:
        monkeypatch.setattr(import_module("hf_tanhmax.attention.kernels.launch"), "tiles", tiles)
