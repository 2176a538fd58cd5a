"""What the door to `transformers serve` refuses; that it serves is in tests/clients/test_transformers_serve.py."""

import subprocess
import sys

import pytest
import transformers
from families import tiny_config

from hf_tanhmax import TanhMaxLlamaConfig
from hf_tanhmax.cli import serve


def refused(capsys, *arguments):
    assert serve.main(list(map(str, arguments))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("arguments", [(), ("--port", "80")])
def test_a_model_comes_first(arguments, capsys):
    assert refused(capsys, *arguments) == "usage: python -m hf_tanhmax.cli.serve MODEL [options of transformers serve]"


def test_models_that_it_does_not_serve(tmp_path, capsys):
    assert "gone" in refused(capsys, tmp_path / "gone")
    tiny_config("llama", upstream=True).save_pretrained(tmp_path)
    assert "is of model type 'llama', no TanhMax model: `transformers serve` serves it" in refused(capsys, tmp_path)
    tiny_config("llama", architectures=["Other"]).save_pretrained(tmp_path)
    assert "does not name one class of its family (architectures: ['Other'])" in refused(capsys, tmp_path)


def test_packages_that_are_missing(tmp_path, capsys, monkeypatch):
    tiny_config("llama", architectures=["TanhMaxLlamaForCausalLM"]).save_pretrained(tmp_path)
    assert TanhMaxLlamaConfig.from_pretrained(tmp_path).architectures == ["TanhMaxLlamaForCausalLM"]
    monkeypatch.setattr("transformers.utils.import_utils.is_serve_available", lambda: False)
    assert refused(capsys, tmp_path) == 'serving needs more packages: pip install "transformers[serving]"'
    monkeypatch.setitem(sys.modules, "transformers.cli.transformers", None)
    assert refused(capsys, tmp_path).startswith(f"Transformers {transformers.__version__} cannot serve (")
    assert not hasattr(transformers, "TanhMaxLlamaForCausalLM")


SERVED = """
import sys
import types
from importlib import import_module

from hf_tanhmax.cli import serve


def asked():
    print(sys.argv, import_module("transformers").TanhMaxLlamaForCausalLM.__name__)


sys.modules["transformers.cli.transformers"] = types.SimpleNamespace(main=asked)
import_module("transformers.utils.import_utils").is_serve_available = lambda: True
sys.exit(serve.main(sys.argv[1:]))
"""


def test_the_class_is_where_transformers_looks_for_it(tmp_path):
    """In a program that has not imported Transformers' model classes, whose import replaces the module `transformers`."""
    tiny_config("llama", architectures=["TanhMaxLlamaForCausalLM"]).save_pretrained(tmp_path)
    process = subprocess.run([sys.executable, "-c", SERVED, str(tmp_path), "--port", "80"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == f"{['transformers', 'serve', str(tmp_path), '--port', '80']} TanhMaxLlamaForCausalLM"
