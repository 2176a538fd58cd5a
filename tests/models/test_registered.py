"""What `import hf_tanhmax` registers, when, and what it does not import for it."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys

import pytest
import transformers
from transformers import AutoConfig

import hf_tanhmax
from hf_tanhmax.models import registered
from hf_tanhmax.models.registered import MODEL_CLASSES, AfterImport, MadeLater


def in_a_fresh_process(code):
    run = subprocess.run([sys.executable, "-W", "error", "-c", f"import json, sys\n{code}"], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.slow
def test_nothing_is_imported_beyond_what_an_auto_class_imports():
    """Neither model classes nor torch's compiler, continuous batching, SciPy and SymPy, which come with those."""
    (bare,) = in_a_fresh_process("from transformers import AutoModel\nprint(json.dumps([list(sys.modules)]))")
    alone, both = in_a_fresh_process("""
import hf_tanhmax
alone = list(sys.modules)
from transformers import AutoModel
print(json.dumps([alone, list(sys.modules)]))
""")
    assert {name for name in set(both) - set(bare) if name.split(".")[0] != "hf_tanhmax"} == set()
    assert not {MODEL_CLASSES, "torch._dynamo", "scipy", "sympy", "transformers.generation.continuous_batching"} & set(alone)
    assert not [name for name in both if name.startswith(("hf_tanhmax.attention", "hf_tanhmax.conversion", "hf_tanhmax.training"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import hf_tanhmax; import transformers.modeling_utils",
        "import transformers.modeling_utils; import hf_tanhmax",
        "import hf_tanhmax.integration.registration",
        "from hf_tanhmax import TanhMaxBertModel",
    ],
)
def test_attention_is_registered_with_the_model_classes(code):
    found = in_a_fresh_process(f"""
{code}
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
names = ["tanhmax", "tanhmax_eager", "tanhmax_paged", "tanhmax_classes_only"]
hooks = [type(finder).__name__ for finder in sys.meta_path]
print(json.dumps([
    [name for name in names if name not in AttentionInterface() or name not in AttentionMaskInterface()],
    "AfterImport" in hooks, "exec_module" in vars(sys.modules["transformers.modeling_utils"].__spec__.loader),
]))
""")
    assert found == [[], False, False]


@pytest.mark.slow
def test_whoever_only_imports_the_package_computes_tanhmax():
    found = in_a_fresh_process("""
import hf_tanhmax
from transformers import AutoConfig, AutoModel
sizes = dict(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
ours = AutoModel.from_config(AutoConfig.for_model("tanhmax_bert", **sizes))
named = AutoModel.from_config(AutoConfig.for_model("bert", **sizes), attn_implementation="tanhmax")
print(json.dumps([type(ours).__name__, named.config._attn_implementation]))
""")
    assert found == ["TanhMaxBertModel", "tanhmax"]


def test_registering_again_changes_nothing():
    before = list(sys.meta_path), dict(transformers.CONFIG_MAPPING._extra_content)
    registered.register()
    assert (list(sys.meta_path), dict(transformers.CONFIG_MAPPING._extra_content)) == before
    assert isinstance(before[1]["tanhmax_bert"], MadeLater)
    assert type(AutoConfig.for_model("tanhmax_bert")) is hf_tanhmax.TanhMaxBertConfig


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that is imported, and what it raises, as the text of its file."""
    name = "imported_by_a_test_of_hooks"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield name, tmp_path / f"{name}.py"
    sys.modules.pop(name, None)


def test_the_action_follows_the_first_import_that_succeeds(module):
    name, file = module
    file.write_text("raise ValueError('broken')")
    done = []
    hook = AfterImport(name, lambda: done.append(sys.modules[name].READY))
    sys.meta_path.insert(0, hook)
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module(name)
    assert (done, hook in sys.meta_path) == ([], True)
    file.write_text("READY = True")
    importlib.invalidate_caches()
    found = importlib.import_module(name)
    assert (done, hook in sys.meta_path) == ([True], False)
    assert "exec_module" not in vars(found.__spec__.loader)
    importlib.reload(found)
    assert done == [True]


def test_two_copies_of_the_package_wait_for_one_module(module):
    name, file = module
    file.write_text("READY = True")
    done = []
    hooks = [AfterImport(name, lambda number=number: done.append(number)) for number in range(2)]
    sys.meta_path[:0] = hooks
    importlib.import_module(name)
    assert sorted(done) == [0, 1]
    assert not set(hooks) & set(sys.meta_path)


class OlderFinder:
    """A finder as they were before Python 3.4, such as some packages still install; Python passes it over."""

    def find_module(self, name, path=None):
        return None


class Wrapped:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, *asked):
        return self.finder.find_spec(*asked)


class SealedLoader:
    __slots__ = ()

    @classmethod
    def create_module(cls, spec):
        return None

    @classmethod
    def exec_module(cls, module):
        module.READY = True


class FinderOf:
    def __init__(self, name, loader):
        self.name, self.loader = name, loader

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self.loader) if name.startswith(self.name) else None


@pytest.mark.parametrize("others", ["older", "wrapped", "sealed", "class"])
def test_finders_and_loaders_of_others_are_left_as_they_are(module, others):
    name, file = module
    file.write_text("READY = True")
    done = []
    sys.meta_path.insert(0, AfterImport(name, lambda: done.append(sys.modules[name].READY)))
    if others == "older":
        sys.meta_path.insert(1, OlderFinder())
    elif others == "wrapped":
        sys.meta_path[:] = map(Wrapped, sys.meta_path)
    else:
        sys.meta_path.insert(1, FinderOf(name, SealedLoader if others == "class" else SealedLoader()))
    before = SealedLoader.exec_module
    found = importlib.import_module(name)
    assert (found.READY, done) == (True, [True])
    assert type(found.__spec__.loader) is type(found.__loader__) is not registered.Followed
    assert SealedLoader.exec_module == before


def test_who_only_asks_for_the_module_does_not_have_it_followed(module):
    name, _ = module
    shared, done = SealedLoader(), []
    hook = AfterImport(name, lambda: done.append(name))
    sys.meta_path[:0] = [hook, FinderOf(name, shared)]
    assert importlib.util.find_spec(name).loader.__slots__ == ()
    other = importlib.import_module(f"{name}_too")
    del sys.modules[other.__name__]
    assert (done, hook in sys.meta_path) == ([], True)


def test_an_action_that_fails_is_tried_again_with_the_next_import(module):
    name, file = module
    file.write_text("READY = True")
    done = []

    def fail_once():
        done.append(len(done))
        if len(done) == 1:
            raise ImportError("half installed")

    sys.meta_path.insert(0, AfterImport(name, fail_once))
    with pytest.raises(ImportError, match="half installed"):
        importlib.import_module(name)
    importlib.import_module(name)
    assert done == [0, 1]


def test_a_module_that_is_not_there_is_not_found(module):
    sys.meta_path.insert(0, AfterImport("nowhere_at_all", lambda: None))
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        importlib.import_module("nowhere_at_all")


def test_modules_are_found_without_an_import_of_their_own():
    assert hf_tanhmax.functional.tanhmax is hf_tanhmax.tanhmax
    assert hf_tanhmax.settings.TanhMaxSettings is hf_tanhmax.TanhMaxSettings
    for absent in ("softmin", "softmin.attention", ""):
        with pytest.raises(AttributeError, match=f"no attribute '{absent}'"):
            getattr(hf_tanhmax, absent)
