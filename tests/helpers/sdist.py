"""The test mixins of the installed Transformers, which its wheel lacks and its source distribution has.

They are downloaded once for each version, to a folder in the user's cache, and imported as the package `transformers_tests`.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import transformers

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hf_tanhmax"

COMMON = '{"return_dict": False, "output_hidden_states": True, "dtype": "float16"}'
# The source distribution leaves out sub-folders of its tests. What the mixins import from there, as little as they need.
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": f"config_common_kwargs = {COMMON}\n",
}


def mixins() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules of ModelTesterMixin, ConfigTester and TrainingTesterMixin; skips the calling test module if they cannot be had."""
    folder = CACHE / f"transformers-{transformers.__version__}"
    if not folder.exists():
        _download(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = ("test_modeling_common", "test_configuration_common", "test_training_mixin")
        return tuple(importlib.import_module(f"transformers_tests.{name}") for name in names)


def _download(folder: Path) -> None:
    wanted = f"transformers=={transformers.__version__}"
    options = ["--no-binary", "transformers", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [sys.executable, "-m", "pip", "download", wanted, *options, "--dest", temporary]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        archives = list(Path(temporary).glob("*.tar.gz"))
        if found.returncode or len(archives) != 1:
            pytest.skip(f"the source distribution of {wanted} cannot be downloaded: {found.stderr.strip()[-200:]}", allow_module_level=True)
        package = Path(temporary) / "unpacked" / "transformers_tests"
        _unpack(archives[0], package)
        try:
            package.parent.rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise


def _unpack(archive: Path, package: Path) -> None:
    """The test modules at the top of `tests/`, and the stubs beside them."""
    package.mkdir(parents=True)
    with tarfile.open(archive) as sdist:
        for member in sdist.getmembers():
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and parts[2].endswith(".py"):
                (package / parts[2]).write_bytes(sdist.extractfile(member).read())
    (package / "__init__.py").touch()
    for name, text in STUBS.items():
        path = package / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
