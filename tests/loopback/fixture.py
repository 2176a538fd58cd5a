"""Fixtures: a Hub on loopback, for this process and for the processes that a test starts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import transformers
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from .server import OWNER_TOKEN, LoopbackHub

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture
def hub():
    """A `LoopbackHub` with no repositories."""
    found = LoopbackHub()
    yield found
    found.stop()


@pytest.fixture
def hub_here(hub, monkeypatch, tmp_path):
    """The same, which `huggingface_hub` in this process talks to; it has read its settings when it was imported."""
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no_token"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # made once, with the endpoint of that moment
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    close_session()
    yield hub
    close_session()


@pytest.fixture
def impatient(monkeypatch):
    """Retries of `huggingface_hub` without their pauses."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def hub_environment(hub: LoopbackHub, home: Path, *, token: str | None = OWNER_TOKEN) -> dict[str, str]:
    """The environment of a process for which this is the only Hub, and `home` all that it has ever downloaded."""
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN")}
    return {**kept, **ours, **({} if token is None else {"HF_TOKEN": token})}


def run_script(script: Path, *arguments: str, environment: dict[str, str], timeout: float = 900) -> str:
    """Run a file in a fresh process where the modules of `tests` can be imported; what it printed, also if it fails."""
    environment = {**environment, "PYTHONPATH": os.pathsep.join([str(HELPERS), environment.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    found = subprocess.run(command, env=environment, text=True, timeout=timeout, check=False, **streams)
    if found.returncode:
        raise AssertionError(f"{script.name} ended with {found.returncode}:\n{found.stdout}")
    return found.stdout
