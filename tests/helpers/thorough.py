"""What takes long, most of all in Triton's interpreter, and repeats what is run: skipped, with a reason, unless it is asked for."""

import os

import pytest
import torch

THOROUGH = torch.cuda.is_available() or os.environ.get("HF_TANHMAX_THOROUGH") == "1"


def thorough_only(reason: str) -> None:
    """Skip the test that calls this, unless there is a GPU or HF_TANHMAX_THOROUGH is 1."""
    if not THOROUGH:
        pytest.skip(f"it takes long, and {reason}: HF_TANHMAX_THOROUGH=1 runs it")
