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
from importlib.abc import Loader, MetaPathFinder
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
    """Does something once a module was imported, which is found as ever; until it has, it is one of Python's finders."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self.module, self.action = module, action
        self._asking = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module as the other finders find it, with the action after its code."""
        if name != self.module or self._asking:  # by a finder that asks all others, or has taken this one's place
            return None
        self._asking = True
        try:
            found = (asked(name, path, target) for finder in list(sys.meta_path) if (asked := getattr(finder, "find_spec", None)))
            spec: ModuleSpec | None = next((each for each in found if each is not None), None)
        finally:
            self._asking = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = Followed(spec.loader, self._follow)
        return spec

    def _follow(self) -> None:
        self.action()
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class Followed(Loader):
    """A loader with something to do after the code of its module, which knows the loader itself only."""

    def __init__(self, loader: Any, action: Callable[[], None]) -> None:
        self._loader, self._action = loader, action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader does."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code as the loader does, and then what is to follow."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._action()


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
