"""What a format needs here, and the sentence that says so."""

import importlib.metadata

import pytest

from hf_tanhmax.export import formats


def installed(monkeypatch, **versions):
    """Pretend that these packages have these versions, or with None are absent."""
    true = importlib.metadata.version

    def version(name):
        if name not in versions:
            return true(name)
        if versions[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(formats.importlib.metadata, "version", version)


@pytest.mark.parametrize("name", [name for name, each in formats.FORMATS.items() if each.needs])
def test_an_absent_package(name, monkeypatch):
    first = next(iter(formats.FORMATS[name].needs))
    installed(monkeypatch, transformers="5.23.0", **{first: None})
    with pytest.raises(ImportError, match=rf'needs {first}, which is not installed: pip install "hf-tanhmax\[{name}\]"'):
        formats.check_packages(name)


def test_an_old_package(monkeypatch):
    installed(monkeypatch, transformers="5.23.0", onnx="1.3.0", onnxscript="0.7.0", onnxruntime="1.30.0")
    with pytest.raises(ImportError, match=r'ONNX needs onnx 1\.20 or newer, but 1\.3\.0 is installed: pip install -U "hf-tanhmax\[onnx\]"'):
        formats.check_packages("onnx")


def test_an_old_transformers(monkeypatch):
    installed(monkeypatch, transformers="5.17.0")
    with pytest.raises(
        ImportError, match=r'export needs Transformers 5\.23 or newer, .* but 5\.17\.0 is installed: pip install -U "transf'
    ):
        formats.check_packages("torch")


def test_a_package_that_cannot_be_imported(monkeypatch):
    def broken(_):
        class Exporters:
            def __getattr__(self, name):
                raise ModuleNotFoundError("Could not import module") from ModuleNotFoundError("No module named 'torchao'")

        return Exporters()

    installed(monkeypatch, transformers="5.23.0", executorch="1.5.0", torchao="0.18.0")
    monkeypatch.setattr(formats, "import_module", broken)
    with pytest.raises(
        ImportError, match=r"ExecuTorch cannot be exported, as No module named 'torchao': pip install \"hf-tanhmax\[executorch"
    ):
        formats.exporter_of("executorch")
