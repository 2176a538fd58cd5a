"""The files of a kernel repository: what they hold and import, that they check themselves, and that they compute what the package does."""

import ast
import base64
import builtins
import hashlib
import json
import os
import subprocess
import symtable
import sys
from pathlib import Path

import pytest
from kernel_cases import REPO, write_cases

from hf_tanhmax.doctor import errors_in
from hf_tanhmax.hub.kernel import BACKENDS, KERNEL_MODULES, check_kernel, kernel_source, write_kernel
from hf_tanhmax.models.bundle import MODULES

LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("kernel", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
READER = Path(__file__).parents[1] / "helpers" / "kernel_reader.py"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    write_kernel(folder, repo_id=REPO)
    return folder


@pytest.fixture
def build(repository):
    return repository / "build" / "torch-cpu"


def in_a_process(*arguments):
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_stock_models_without_the_plugin(repository, tmp_path):
    """To the bit, by the code for CPUs, and where kernels are interpreted by these."""
    write_cases(tmp_path)
    assert (tmp_path / "triton.pt").is_file() == (os.environ.get("TRITON_INTERPRET") == "1")
    ended = in_a_process(READER, tmp_path, "build")
    assert ended.returncode == 0, ended.stderr
    assert "by Transformers itself: False" in ended.stdout


def test_it_imports_torch_alone(build):
    for name, own in (("tanhmax.py", set()), ("__init__.py", {"tanhmax"})):
        nodes = [node for node in ast.walk(ast.parse((build / name).read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
        found = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes}
        assert {each.split(".")[0] for each in found} - sys.stdlib_module_names == {"torch", *own} - ({"torch"} if own else set())
        assert {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level} == own


def test_it_holds_what_computes_and_no_model():
    assert set(MODULES) - set(KERNEL_MODULES) == {
        "integration/chosen_modules",
        "integration/model_names",
        "integration/patching",
        "models/family",
        "models/architectures",
    }
    assert len(kernel_source()) < 2**19


def test_every_name_means_something(build):
    text = kernel_source()
    table = symtable.symtable(text, "tanhmax.py", "exec")
    known = {"__file__", *dir(builtins)}
    known |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}

    def unknown(scope):
        yield from (symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.get_name() not in known)
        for inner in scope.get_children():
            yield from unknown(inner)

    assert set(unknown(table)) == set()


def test_without_transformers_it_is_attention_alone(build):
    code = f"""
import importlib.util, sys
sys.modules["hf_tanhmax"] = None
sys.meta_path.insert(0, type("Finder", (), {{"find_spec": lambda self, name, *_: (_ for _ in ()).throw(ModuleNotFoundError(name))
    if name.split(".")[0] == "transformers" else None}})())
import torch
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "transformers" else found(name, *rest)
spec = importlib.util.spec_from_file_location("alone", {str(build / "tanhmax.py")!r})
sys.modules["alone"] = alone = importlib.util.module_from_spec(spec)
spec.loader.exec_module(alone)
query = torch.ones(1, 1, 3, 4)
print(alone.tanhmax_attention(query, query, query).shape, "transformers" in sys.modules)
"""
    ended = in_a_process("-c", code)
    assert ended.stdout == "torch.Size([1, 1, 3, 4]) False\n", ended.stderr


def test_metadata_say_what_the_kernels_package_reads(repository):
    ids = set()
    for backend in BACKENDS:
        folder = repository / "build" / f"torch-{backend}"
        found = json.loads((folder / "metadata.json").read_text())
        assert found["backend"] == {"type": backend}
        assert (found["name"], found["version"], found["python-depends"]) == ("tanhmax", 1, [])
        assert found["digest"]["algorithm"] == "sha256"
        for name, digest in found["digest"]["files"].items():
            assert base64.b64decode(digest) == hashlib.sha256((folder / name).read_bytes()).digest()
        assert found["id"].isidentifier()
        ids.add(found["id"])
    assert len(ids) == len(BACKENDS)
    assert {(finding.level, finding.sentence) for finding in check_kernel(repository)} == {("ok", "is exactly what this version writes")}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tanhmax.py", lambda text: f"{text}\n", "tanhmax.py of this TanhMax kernel is not the file whose digest its metadata have"),
        ("__init__.py", lambda text: f"{text}\n", "__init__.py of this TanhMax kernel is not the file whose digest its metadata have"),
        (
            "metadata.json",
            lambda text: text.replace("digest", "other"),
            "metadata.json of this TanhMax kernel has no digest of __init__.py",
        ),
        (
            "metadata.json",
            lambda text: text.replace("tanhmax.py", "other.py"),
            "metadata.json of this TanhMax kernel has no digest of tanhmax.py",
        ),
    ],
    ids=["code", "entry", "no digest", "no digest of the code"],
)
def test_what_was_altered_is_not_run(build, name, change, said):
    (build / name).write_text(change((build / name).read_text()))
    ended = in_a_process("-c", LOAD, build / "__init__.py")
    assert f"ImportError: {said}" in ended.stderr
    assert "so it is not run: " in ended.stderr
    assert {finding.subject for finding in errors_in(check_kernel(build.parents[1]))} == {"build/torch-cpu"}


def test_digests_made_anew_do_not_help_where_the_entry_is_the_same(build):
    metadata = json.loads((build / "metadata.json").read_text())
    (build / "tanhmax.py").write_text("flash_attn_forward = None\n")
    metadata["digest"]["files"]["tanhmax.py"] = base64.b64encode(hashlib.sha256((build / "tanhmax.py").read_bytes()).digest()).decode()
    (build / "metadata.json").write_text(json.dumps(metadata))
    assert "tanhmax.py of this TanhMax kernel is not the file" in in_a_process("-c", LOAD, build / "__init__.py").stderr
