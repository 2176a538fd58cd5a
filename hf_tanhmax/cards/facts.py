"""What the files of a folder say about the model in it, as far as a model card needs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedModel

from ..checkpoint import ADAPTER_CONFIG, BASE, CONFIG, RESULTS, class_of, pipeline_of, read_config, read_object

# What PEFT calls a task, and the Auto class of its base. The others have none and name the class of their base instead.
TASKS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


@dataclass(frozen=True)
class Facts:
    """One model, or one adapter and its base.

    Attributes:
        config: the TanhMax config, of the base for an adapter; None where an adapter's base is not on this machine.
        auto_class: the Auto class that loads it, or loads the adapter's base.
        model_class: its class; None where there is no config.
        is_adapter: whether the folder holds a PEFT adapter.
        adapter_base: what the adapter names as its base.
        base_is_local: whether that is a folder, which has another name once it is published.
        processor: the Auto class of the tokenizer or image processor beside it; None where there is none.
        figures: paths of images inside the folder.
        seed: of the run that left the weights, if its results are beside them.
    """

    config: Any
    auto_class: str
    model_class: type[PreTrainedModel] | None
    is_adapter: bool
    adapter_base: str | None
    base_is_local: bool
    processor: str | None
    figures: tuple[str, ...]
    seed: int | None

    @property
    def family(self) -> str | None:
        """`bert`, `vit` or `llama`."""
        return None if self.config is None else str(self.config.model_type).removeprefix("tanhmax_")

    @property
    def pipeline_tag(self) -> str | None:
        """The task, as the Hub calls it."""
        return pipeline_of(self.auto_class, "" if self.config is None else self.config.model_type)

    @property
    def labels(self) -> list[str]:
        """The names of the classes, if the model classifies and they have names of their own."""
        names = [] if self.config is None else list((self.config.id2label or {}).values())
        own = [str(name) for number, name in enumerate(names) if name != f"LABEL_{number}"]
        return own if (self.pipeline_tag or "").endswith("classification") else []


def read_facts(folder: Path) -> Facts:
    """Look at a folder.

    Raises:
        ValueError: it holds no TanhMax model.
    """
    adapter = read_object(folder / ADAPTER_CONFIG)
    base = None if adapter is None else adapter.get("base_model_name_or_path")
    path = folder / CONFIG if adapter is None else _config_of_base(folder, base)
    try:
        config = None if path is None else read_config(path)
        auto_class, model_class = (_auto_class(adapter), None) if config is None else class_of(config)
    except ValueError as error:
        raise ValueError(f"there is no TanhMax model in {folder} to write a card for: {path} {error}") from error
    return Facts(
        config=config,
        auto_class=auto_class,
        model_class=model_class,
        is_adapter=adapter is not None,
        adapter_base=base,
        base_is_local=base is not None and ((folder / BASE).is_dir() or Path(base).is_dir()),
        processor=_processor(folder),
        figures=tuple(sorted(found.relative_to(folder).as_posix() for found in folder.glob("figures/*.png"))),
        seed=(read_object(folder / RESULTS) or {}).get("seed"),
    )


def _auto_class(adapter: dict[str, Any] | None) -> str:
    return TASKS.get(str((adapter or {}).get("task_type")), "AutoModel")


def _config_of_base(folder: Path, name: object) -> Path | None:
    for path in (folder / BASE / CONFIG, Path(str(name)) / CONFIG):
        if path.is_file():
            return path
    try:
        cached = try_to_load_from_cache(str(name), CONFIG)
    except HFValidationError:  # a folder of another machine
        return None
    return Path(cached) if isinstance(cached, str) else None


def _processor(folder: Path) -> str | None:
    if any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return "AutoImageProcessor"
    return "AutoTokenizer" if (folder / "tokenizer_config.json").is_file() else None
