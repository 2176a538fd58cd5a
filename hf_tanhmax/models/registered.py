"""What `import hf_tanhmax` registers with Transformers: stand-ins, so that what they stand for is imported when a model is wanted.

Transformers' model classes take seconds to import, as they bring torch's compiler, continuous batching and SciPy. A program that has not
come to its models yet need not wait for them:

* for every TanhMax type `AutoConfig` gets a stand-in, which makes the config class when it is used;
* the attention functions belong to `AttentionInterface`, which lies in the module of the model classes. They are registered as the last
  step of its import, whoever imports it, or at once if it was imported before.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ..settings import TYPE_PREFIX

MODEL_CLASSES = "transformers.modeling_utils"


class MadeLater(type):
    """A stand-in for a config class, which makes it when it is called or asked for anything."""

    upstream: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """A config of the class."""
        return _config_of(cls.upstream)(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        return getattr(_config_of(cls.upstream), name)


class AfterImport(MetaPathFinder):
    """Does something once a module was imported, which is found as ever; until then it is the first of Python's finders."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self.module, self.action = module, action

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module as the finders after this one find it, with the action after its code."""
        if name != self.module:
            return None
        further = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next((found for finder in further if (found := finder.find_spec(name, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        execute = loader.exec_module

        def _execute(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)  # the loader is what it was
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            self.action()

        loader.exec_module = _execute


def register() -> None:
    """Register every TanhMax type and the attention functions; calling it again changes nothing."""
    for model_type in CONFIG_MAPPING_NAMES:
        ours = TYPE_PREFIX + model_type
        if ours not in CONFIG_MAPPING:
            AutoConfig.register(ours, MadeLater(ours, (), {"upstream": model_type}), exist_ok=True)
    if MODEL_CLASSES in sys.modules:
        _register_attention()
    elif not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport(MODEL_CLASSES, _register_attention))


def _register_attention() -> None:
    import_module("hf_tanhmax.integration.registration").register_attention()


def _config_of(model_type: str) -> Any:
    return import_module("hf_tanhmax.models.architectures").config_of(model_type)
