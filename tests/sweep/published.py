"""A process without this package that loads folders by the code that they bring: `python tests/sweep/published.py`, asked by `Reader`."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from running import aligned, run
from torch import Tensor
from transformers.dynamic_module_utils import get_class_from_dynamic_module


class Reader:
    """The process, which is started when it is first asked, and anew when it died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.place: tempfile.TemporaryDirectory[str] | None = None

    def ask(self, folder: str, auto: str | None, cls: str, inputs: dict) -> list[Tensor]:
        """The outputs of the model in a folder.

        Args:
            folder: where a TanhMax model is saved.
            auto: the Auto class that loads it; None loads its class by its name.
            cls: the name of its class.
            inputs: what it is run with.

        Raises:
            AssertionError: they cannot be had; the message says why.
        """
        if self.process is None or self.process.poll() is not None:
            self._start()
        # One name for all, so that one run of the file serves them.
        published = Path(self.place.name) / "published"
        shutil.rmtree(published, ignore_errors=True)
        shutil.copytree(folder, published)
        torch.save(inputs, published / "inputs.pt")
        self.process.stdin.write(json.dumps([str(published), auto, cls]) + "\n")
        self.process.stdin.flush()
        answer = next((line for line in self.process.stdout if line.startswith("{")), None)
        if answer is None:
            raise AssertionError(f"the process without the package ended with {self.process.wait()}")
        if wrong := json.loads(answer)["wrong"]:
            raise AssertionError(f"without the package: {wrong}")
        return torch.load(published / "outputs.pt")

    def _start(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        environment = {**os.environ, "HF_MODULES_CACHE": str(Path(self.place.name) / "modules")}
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([sys.executable, __file__], env=environment, text=True, **streams)


def read(folder: str, auto: str | None, cls: str) -> None:
    """Run the model in a folder, and write what it gives to `outputs.pt`."""
    if auto is None:
        model = get_class_from_dynamic_module(f"modeling_tanhmax.{cls}", folder).from_pretrained(folder)
    else:
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    if type(model).__name__ != cls or not type(model).__module__.startswith("transformers_modules."):
        raise TypeError(f"{auto} loads a {type(model).__name__} of {type(model).__module__}")
    torch.save(run(aligned(model.eval()), torch.load(f"{folder}/inputs.pt", weights_only=False)), f"{folder}/outputs.pt")
    if any(name.partition(".")[0] == "hf_tanhmax" for name in sys.modules):
        raise ImportError("the package was imported")


def main() -> None:
    """Answer each line, a folder with the names of classes, by a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever else prints
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for line in sys.stdin:
        wrong = None
        try:
            with contextlib.redirect_stdout(sys.stderr):
                read(*json.loads(line))
        except Exception as error:
            wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(json.dumps({"wrong": wrong}), file=answers, flush=True)


if __name__ == "__main__":
    main()
