"""Try every model type, or those named: `python -m tiny [NAME ...]` prints a line for each, and counts."""

import signal
import sys
import time
import traceback
import warnings

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from . import Untried, tiny_inputs, tiny_model

SECONDS = 30


def tensors(value):
    """Every tensor inside an output."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


def try_type(model_type: str) -> tuple[str, str]:
    """What came of a type: a word, and more of it."""
    step = "build"
    try:
        model = tiny_model(model_type)
        step = "inputs"
        inputs = tiny_inputs(model)
        step = "forward"
        start = time.monotonic()
        with torch.no_grad():
            output = model(**inputs)
        seconds = time.monotonic() - start
        finite = all(torch.isfinite(each).all() for each in tensors(output) if each.is_floating_point())
        count = sum(parameter.numel() for parameter in model.parameters())
        return ("ok" if finite else "not-finite"), f"{type(model).__name__} {seconds:.2f} s, {count / 1e6:.2f} M: {', '.join(inputs)}"
    except Untried as error:
        return "untried", str(error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        return step, f"{type(error).__name__}: {text[:300]} [{last.filename.split('/')[-1]}:{last.lineno}]"


def main(names: list[str]) -> None:
    """Print a line for each type, and the counts."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    counts: dict[str, int] = {}

    def late(*_):
        raise TimeoutError(f"over {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    for model_type in names or CONFIG_MAPPING_NAMES:
        start = time.monotonic()
        signal.alarm(SECONDS)
        word, more = try_type(model_type)
        signal.alarm(0)
        counts[word] = counts.get(word, 0) + 1
        print(f"{word}\t{model_type}\t{time.monotonic() - start:.1f}\t{more}", flush=True)
    print(counts)


if __name__ == "__main__":
    main(sys.argv[1:])
