"""A process that loads folders of TanhMax models, without this package by the code that they bring, or with it, asked by `Reader`."""

import contextlib
import importlib
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
    """The process, which is started when it is first asked, and anew when it died.

    Args:
        package: whether it imports this package.
    """

    def __init__(self, *, package: bool) -> None:
        self.package = package
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
            raise AssertionError(f"the process {self._which()} the package ended with {self.process.wait()}")
        if wrong := json.loads(answer)["wrong"]:
            raise AssertionError(f"{self._which()} the package: {wrong}")
        return torch.load(published / "outputs.pt")

    def _which(self) -> str:
        return "with" if self.package else "without"

    def _start(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        environment = {**os.environ, "HF_MODULES_CACHE": str(Path(self.place.name) / "modules")}
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([sys.executable, __file__, self._which()], env=environment, text=True, **streams)


def read(folder: str, auto: str | None, cls: str) -> None:
    """Run the model in a folder, and write what it gives to `outputs.pt`."""
    package = "hf_tanhmax" in sys.modules
    if auto is not None:
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=not package)
    elif package:
        model = getattr(sys.modules["hf_tanhmax"], cls).from_pretrained(folder)
    else:
        model = get_class_from_dynamic_module(f"modeling_tanhmax.{cls}", folder).from_pretrained(folder)
    if type(model).__name__ != cls or type(model).__module__.startswith("transformers_modules.") == package:
        raise TypeError(f"{auto} loads a {type(model).__name__} of {type(model).__module__}")
    torch.save(run(aligned(model.eval()), torch.load(f"{folder}/inputs.pt", weights_only=False)), f"{folder}/outputs.pt")
    if ("hf_tanhmax" in sys.modules) != package:
        raise ImportError("the package was imported")


def main() -> None:
    """Answer each line, a folder with the names of classes, by a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever else prints
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if sys.argv[1] == "with":
        importlib.import_module("hf_tanhmax")
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
