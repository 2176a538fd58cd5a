"""Source is read, not imported: where it lies, what it defines, and what a function takes."""

import pytest
import transformers
from trees import MODEL, release

from hf_tanhmax.compatibility.sources import in_folder, installed, parameters_of

SOURCE = '''
"""A text."""
try:
    from elsewhere import taken
except ImportError:
    SPARE = None


class Config:
    plan: int = 1

    def __init__(self, size, *, dtype=None):
        self.size = size
        self._cached, other.thing = 1, 2

    @property
    def _name(self):
        return self._cached


async def call(first, /, second): ...
'''


@pytest.fixture
def read(tmp_path):
    found = release(tmp_path)
    (tmp_path / "transformers" / "a.py").write_text(SOURCE)
    return lambda name, path="a.py": found.has("transformers", path, name)


@pytest.mark.parametrize(
    "name",
    ["SPARE", "Config", "Config.plan", "Config._name", "Config.size", "Config._cached", "call", "call(first)", "call(second)", '"A text"'],
)
def test_defined(name, read):
    assert read(name)


@pytest.mark.parametrize("name", ["Config.__init__(dtype)", "Config.__init__(size)"])
def test_taken(name, read):
    assert read(name)


@pytest.mark.parametrize(
    "name", ["taken", "plan", "Config.call", "SPARE.plan", "call(third)", "Config(size)", '"another text"', "Config.plan(size)", "_name"]
)
def test_not_defined(name, read):
    assert not read(name)


def test_files_that_are_not_there(read, tmp_path):
    assert not read("Config", "b.py")
    assert not read('"A text"', "b.py")
    assert not release(tmp_path).has("peft", "a.py", "Config")


def test_names_that_are_none(read):
    with pytest.raises(ValueError, match="'a-b' is no name of a definition"):
        read("a-b")


def test_parameters_of_what_is_no_function():
    assert parameters_of(None) == set()


def test_the_installed_release():
    found = installed(("transformers", "no_such_package"))
    assert found.version == transformers.__version__
    assert set(found.packages) == {"transformers"}
    assert found.has("transformers", "modeling_utils.py", "PreTrainedModel")
    with pytest.raises(ValueError, match="transformers is not installed"):
        installed(("no_such_package",))


def test_folders_that_hold_a_release(tmp_path):
    release(tmp_path / "site")
    for folder in (tmp_path / "site", tmp_path / "site" / "transformers"):
        assert in_folder(folder, ("transformers",)).version == "5.98.0"
    release(tmp_path / "sdist" / "src")
    assert in_folder(tmp_path / "sdist", ("transformers", "peft")).packages.keys() == {"transformers"}
    with pytest.raises(ValueError, match="holds no transformers; give the folder of `pip install --no-deps --target FOLDER"):
        in_folder(tmp_path, ("transformers",))
    (tmp_path / "site" / "transformers" / "__init__.py").write_text("")
    with pytest.raises(ValueError, match="does not say its version"):
        in_folder(tmp_path / "site", ("transformers",))


def test_modelling_files_are_those_that_ask_the_interface(tmp_path):
    assert list(release(tmp_path).modelling()) == [("tiny", MODEL)]
