"""What TanhMax adds to an architecture: fields of its config, and what makes a subclass of an upstream class compute TanhMax.

PEFT and Liger have tables that are keyed by model type: of the default target modules of each method, and of the functions that put kernels
into a model. Modules have the same names here as upstream, so the TanhMax types get upstream's rows. Neither library has a function that
adds a row, or a moment at which it calls plugins, and importing them here would make `import hf_tanhmax` heavy. But both read the model
type right before they look it up, so that is when the rows are added: `ModelType` is an attribute that does it.

Transformers itself asks a model's type by name in a few places, such as whether it is Whisper, whose prompts stand before the start token.
No table says so; the types that are asked for (`ASKED_TYPES`) therefore answer to both names, ours and upstream's.
"""

import difflib
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ..integration.chosen_modules import modules_by_layer
from ..integration.model_names import converted_name
from ..integration.patching import ConfigView, attention_modules, own, settle_layers
from ..integration.registration import CLASSES_ONLY, EAGER, FUSED, SCORE_BIAS, heads_of
from ..settings import TanhMaxSettings, check_refitted, fitted_to
from .bundle import CODE_FILE, source

# In a TanhMax model the names of Transformers mean TanhMax already. Ours are other words for them: taken as they are, they would make
# TanhMax of the layers that `tanhmax_layers` leaves softmax, and of a model that `to_softmax` made. In a published file FUSED and EAGER are
# names of its own.
STOCK_NAMES = {"tanhmax": "sdpa", "tanhmax_eager": "eager", FUSED: "sdpa", EAGER: "eager", CLASSES_ONLY: None}
IMPLEMENTATION: Any = PreTrainedConfig._attn_implementation  # a property
BASE: Any = PreTrainedModel

# Whether what sets the attention of a config now is that config, or a model of a TanhMax class.
OWN: ContextVar[bool] = ContextVar("OWN", default=False)
TAKEN = "_tanhmax_taken"  # the attribute of a config that a softmax class has taken

Model = TypeVar("Model", bound=type[PreTrainedModel])

SETTINGS = [f"tanhmax_{field.name}" for field in fields(TanhMaxSettings)]  # the fields of a config that hold them, in their order

# For each TanhMax config class, the class behind every Auto class; for an Auto class that has more than one, the others, of which it loads
# the one that a config names; and for each TanhMax model type, upstream's.
HEADS: dict[type[PreTrainedConfig], dict[str, type[PreTrainedModel]]] = {}
OTHER_HEADS: dict[type[PreTrainedConfig], dict[str, list[str]]] = {}
UPSTREAM_TYPES: dict[str, str] = {}
# What a model card says of every model of ours, once it is pushed to the Hub.
TAGS = ["tanhmax", "custom_code"]
# The model types that pipelines and `generate` of Transformers compare a model's with.
ASKED_TYPES = frozenset(
    {
        *("bark", "csm", "dia", "kyutai_speech_to_text", "lasr_ctc", "musicgen", "nemotron3_5_asr", "nemotron_asr_streaming"),
        *("parakeet_rnnt", "parakeet_tdt", "seamless_m4t", "seamless_m4t_v2", "speecht5", "vision-encoder-decoder", "whisper"),
    }
)
# ViT's attention projections are named as LLaMA's are; the rest of it is not. PEFT's own rows for `vit` are the names of older checkpoints.
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


@dataclass(kw_only=True, repr=False)
class TanhMaxFields:
    """The fields that a TanhMax config adds to its upstream config; `TanhMaxSettings` says what they mean and checks them.

    The last, `tanhmax_refitted_polarity`, holds the polarity, shift, layers and heads that output projections were refitted to, or the
    polarity alone, and is None where they were not. Others are refused then, wherever they are set.
    """

    model_type: ClassVar[str]

    tanhmax_polarity: float | int | str = 1.0
    tanhmax_layers: list[int | str] | tuple[int | str, ...] | None = None
    tanhmax_heads: list[int] | tuple[int, ...] | None = None
    tanhmax_score_bias: float | int = 3.0
    tanhmax_shift: str | None = None
    tanhmax_softmax_parts: list[str] | tuple[str, ...] | None = None
    tanhmax_refitted_polarity: float | int | str | dict[str, Any] | None = None

    def __init_subclass__(cls, *args: Any, **kwargs: Any) -> None:
        """Let libraries that look the model type up find it."""
        super().__init_subclass__(*args, **kwargs)
        if isinstance(cls.__dict__.get("model_type"), str):
            cls.model_type = ModelType(cls.model_type)  # type: ignore[assignment]

    @property
    def tanhmax_settings(self) -> TanhMaxSettings:
        """All fields but the last as one checked object."""
        return self._settings(vars(self))

    def _settings(self, values: dict[str, Any]) -> TanhMaxSettings:
        """Attributes of a config as settings, which must be those that projections were refitted to."""
        settings = TanhMaxSettings(*(values[name] for name in SETTINGS))
        if (refitted := values["tanhmax_refitted_polarity"]) is not None:
            fitted = refitted if isinstance(refitted, dict) else {}
            counts = {"layers": "num_hidden_layers", "heads": "num_attention_heads"}  # by which a list of all is none
            known = {key: getattr(self, name, None) for key, name in counts.items() if fitted.get(key) is None}
            check_refitted(fitted_to(settings, known.get("layers"), known.get("heads")), refitted)
        return settings

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, unless it is a setting and projections were refitted to another; the class's own model type stays there."""
        if name == "model_type" and str(value) == str(type(self).model_type):  # as a config.json has it
            vars(self).pop(name, None)
            return
        if vars(self).get("tanhmax_refitted_polarity") is not None and name in SETTINGS:
            self._settings({**vars(self), name: value})
        super().__setattr__(name, value)
        # Transformers has no hook for the making of a model, but each writes down in its config the attention that it chose.
        if name == "_attn_implementation_internal" and not OWN.get() and TAKEN not in vars(self):
            vars(self)[TAKEN] = True
            with owning():
                IMPLEMENTATION.fset(self, CLASSES_ONLY)

    @property
    def _attn_implementation(self) -> str | None:
        name = IMPLEMENTATION.fget(self)
        return CLASSES_ONLY if TAKEN in vars(self) else STOCK_NAMES.get(name, name)

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict[str, str | None] | None) -> None:
        with owning():
            IMPLEMENTATION.fset(self, None if value == CLASSES_ONLY else value)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a config.json says; the settings of a whole model are also those of a part of it, which is loaded alone."""
        values, left = super().get_config_dict(*args, **kwargs)  # type: ignore[misc]
        part = values.get(getattr(cls, "base_config_key", ""))
        if isinstance(part, dict):
            part.update({name: values[name] for name in (*SETTINGS, "tanhmax_refitted_polarity") if name in values})
        return values, left

    def to_dict(self) -> dict[str, Any]:
        """The config as a dictionary, which names a shift, softmax parts and a refitted polarity only where they are."""
        values = super().to_dict()  # type: ignore[misc]
        values.pop(TAKEN, None)
        for name in ("tanhmax_shift", "tanhmax_softmax_parts", "tanhmax_refitted_polarity"):
            if values.get(name) is None:
                values.pop(name, None)
        return values

    def to_json_string(self, use_diff: bool = True) -> str:
        """The config as config.json has it: it and its parts name an attention that Transformers computes in TanhMax classes alone."""
        values = json.loads(super().to_json_string(use_diff))  # type: ignore[misc]
        _name_attention(self, values)
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write the config, and beside it the file of code that it names, by which it loads where this package is not installed.

        However a config or a model is saved, it comes by here, and that before anything is uploaded.
        """
        _refuse_settings_of_parts(self)
        config_class: Any = type(self)
        published = config_class in HEADS
        if published:
            self.auto_map = auto_map(config_class, getattr(self, "architectures", None) or ())
        super().to_json_file(json_file_path, use_diff)  # type: ignore[misc]
        if published:
            (Path(json_file_path).parent / CODE_FILE).write_bytes(source().encode())

    def validate_tanhmax(self) -> None:
        """Refuse what `TanhMaxSettings` refuses; Transformers calls it when a config is made."""
        _ = self.tanhmax_settings


@contextmanager
def owning() -> Iterator[None]:
    """What is done inside sets attention for a config itself, or for a model of a TanhMax class."""
    before = OWN.set(True)
    try:
        yield
    finally:
        OWN.reset(before)


def _name_attention(config: Any, values: dict[str, Any]) -> None:
    """Add the name of the attention to the values of a config and of its parts."""
    values["attn_implementation"] = CLASSES_ONLY
    for name in config.sub_configs:
        if isinstance(values.get(name), dict) and isinstance(part := getattr(config, name, None), PreTrainedConfig):
            _name_attention(part, values[name])


def auto_map(config_class: type[PreTrainedConfig], architectures: Iterable[str] = ()) -> dict[str, str]:
    """The class in the published file for each Auto class, as config.json names it; where there are several, that of the checkpoint."""
    names = {"AutoConfig": config_class.__name__} | {auto: cls.__name__ for auto, cls in HEADS[config_class].items()}
    for auto, others in OTHER_HEADS.get(config_class, {}).items():
        names[auto] = next((name for name in architectures if name in others), names[auto])
    return {auto: f"{Path(CODE_FILE).stem}.{name}" for auto, name in names.items()}


def tanhmax_class(config_class: type[PreTrainedConfig]) -> Callable[[Model], Model]:
    """Make a subclass of a Transformers model compute TanhMax: its config class, its construction, its initialisation.

    The class is one line below its upstream class; the signature of `__init__` is upstream's, as Transformers inspects it.
    """

    def _decorate(cls: Model) -> Model:
        upstream: Any = cls.__init__

        @functools.wraps(upstream)
        def _construct(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
            _refuse_edited(config, config_class)
            with owning():
                upstream(self, config, *args, **kwargs)
            own(self)
            _name_layers(self)
            settle_layers(self)
            _refuse_to_save_parts(self)
            self.add_model_tags(TAGS)
            _share_out_score_biases(self)
            if config.model_type != str(type(config).model_type):  # of a softmax checkpoint: it has no score biases, and its name loads it
                self._keys_to_ignore_on_load_missing = {*(self._keys_to_ignore_on_load_missing or ()), SCORE_BIAS}
                self.name_or_path = config.name_or_path = config.name_or_path and converted_name(config.name_or_path)

        upstream_initialize = cls.initialize_weights

        @functools.wraps(upstream_initialize)
        def _initialize(self: PreTrainedModel) -> None:
            upstream_initialize(self)
            for module in attention_modules(self):
                if getattr(module, SCORE_BIAS, None) is not None:
                    init.constant_(getattr(module, SCORE_BIAS), self.config.tanhmax_score_bias)

        upstream_choice: Any = cls.set_attn_implementation

        @functools.wraps(upstream_choice)
        def _choose_attention(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
            with owning():
                upstream_choice(self, *args, **kwargs)

        upstream_load: Any = cls.from_pretrained

        @functools.wraps(upstream_load.__func__)
        def _load(cls: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
            model, report = upstream_load.__func__(cls, *args, output_loading_info=True, **kwargs)
            _refuse_weights_of_others(model, report["missing_keys"])
            _refuse_uneven_heads(model)
            return (model, report) if output_loading_info else model

        changes = {
            "__init__": _construct,
            "initialize_weights": _initialize,
            "set_attn_implementation": _choose_attention,
            "config_class": config_class,
            # Of custom code, Transformers does not let modules initialise what is not in files, such as some buffers of their children.
            "is_custom_code": classmethod(lambda _: False),
        }
        if upstream_load.__func__ is BASE.from_pretrained.__func__:
            changes["from_pretrained"] = classmethod(_load)
        for name, value in changes.items():
            setattr(cls, name, value)
        cls.__annotations__ = {**cls.__annotations__, "config": config_class}
        cls._supports_flash_attn = cls._supports_flex_attn = False
        return cls

    return _decorate


def _name_layers(model: PreTrainedModel) -> None:
    """Have the config name layers that were counted, where a model has several lists of them: another head counts others."""
    paths = list(modules_by_layer(model))
    chosen = model.config.tanhmax_layers
    if chosen is not None and len({path.rpartition(".")[0] for path in paths}) > 1:
        named = [path.removeprefix(f"{model.base_model_prefix}.") for path in paths]
        model.config.tanhmax_layers = [named[each] if isinstance(each, int) else each for each in chosen]


def _refuse_to_save_parts(model: PreTrainedModel) -> None:
    """Have parts of a model refuse to be saved alone whose configs hold no settings, as they would be loaded as softmax models."""
    plain = (part for part in model.modules() if isinstance(part, PreTrainedModel) and not isinstance(part.config, TanhMaxFields))
    for part in plain:
        if any(isinstance(getattr(module, "config", None), ConfigView) for module in part.modules()):
            vars(part)["save_pretrained"] = functools.partial(_refuse_part, type(part).__name__, type(model).__name__)


def _refuse_part(part: str, whole: str, *_: object, **__: object) -> None:
    raise ValueError(
        f"this {part} is a part of a {whole}, and its config holds no TanhMax settings, so that it would be loaded as a softmax model: "
        "save the whole, or hf_tanhmax.convert the part of the softmax model, and save that"
    )


def _refuse_edited(config: PreTrainedConfig, config_class: type[PreTrainedConfig]) -> None:
    """Refuse a config.json that was edited to settings that are none, or to the model type of another architecture than its class."""
    known = {field.name for field in fields(TanhMaxFields)}
    for name in sorted(name for name in vars(config) if name.startswith("tanhmax_") and name not in known):
        near = difflib.get_close_matches(name, known, 1)
        raise ValueError(f"the config has {name}, which is no setting of TanhMax" + (f"; is it {near[0]}?" if near else "; take it out"))
    _refuse_settings_of_parts(config)
    for name in config.architectures or ():
        upstream = getattr(transformers, name.removeprefix("TanhMax"), None) if name.startswith("TanhMax") else None
        other = getattr(upstream, "config_class", None)
        if isinstance(other, type) and not issubclass(config_class, other):
            raise ValueError(
                f"the config names {name} as the model's class, but is of model type {config.model_type!r}, which is another architecture: "
                "put right whichever was edited, as no weights of one fit the other"
            )


def _refuse_settings_of_parts(config: Any) -> None:
    """Refuse settings that were written into the config of a part, where nothing reads them."""
    for part in config.sub_configs:
        inner = getattr(config, part, None)
        if isinstance(inner, PreTrainedConfig) and not isinstance(inner, TanhMaxFields):
            for name in sorted(name for name in vars(inner) if name.startswith("tanhmax_")):
                raise ValueError(
                    f"{part} has {name}, but settings count for the whole model, and stand beside {part}: write it there, and choose parts "
                    'by tanhmax_layers, such as ["vision_model"]'
                )
            _refuse_settings_of_parts(inner)


def _refuse_weights_of_others(model: PreTrainedModel, missing: Iterable[str]) -> None:
    """Refuse a checkpoint that has no weight of any attention module, as Transformers would make all of them at random."""
    of_attention = {id(weight) for module in attention_modules(model) for weight in module.parameters()}
    needed = {name for name, weight in model.named_parameters() if id(weight) in of_attention and not name.endswith(SCORE_BIAS)}
    if needed and needed <= set(missing):
        raise ValueError(
            f"the checkpoint has no weight of the attention of a {type(model).__name__}, such as {min(needed)}: it is of another "
            f"architecture than its config says (model type {model.config.model_type!r}), or of no model at all"
        )


def _refuse_uneven_heads(model: PreTrainedModel) -> None:
    """Refuse tensor parallelism over processes that the heads cannot be shared out to evenly: the first call would say a shape."""
    processes = getattr(getattr(model.config, "distributed_config", None), "tp_size", None) or 1
    split = {rule.rpartition(".")[2] for rule, style in (model.tp_plan or {}).items() if style == "colwise"} if processes > 1 else set()
    for module in attention_modules(model) if split & {"q_proj", "k_proj"} else ():
        query = heads_of(module)
        key = getattr(module.config, "num_key_value_heads", None) or query
        if query % processes or key % processes:
            raise ValueError(
                f"tensor parallelism of {processes} processes cannot share out the {query} heads and {key} key-value heads of "
                f"{type(module).__name__} evenly: choose a tp_size that divides both"
            )


def _share_out_score_biases(model: PreTrainedModel) -> None:
    """Have the tensor parallel plan, where the family has one, give each rank the score biases of its heads."""
    rules = {re.sub(r"\.\d+\.", ".*.", name): "colwise" for name, _ in model.named_parameters() if name.endswith(SCORE_BIAS)}
    if model.tp_plan and rules:
        model.tp_plan = model.tp_plan | rules  # type: ignore[misc]


class ModelType:
    """The model type of a config class, which adds rows to the tables when it is read off the class or a config."""

    def __init__(self, name: str) -> None:
        self.name = BothNames(name) if name.removeprefix("tanhmax_") in ASKED_TYPES else name

    def __get__(self, config: object, config_class: type | None = None) -> str:
        fill_tables()
        return self.name


class BothNames(str):
    """A TanhMax model type that equals upstream's too; as a key of a dictionary it is itself alone."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str(self) in (other, f"tanhmax_{other}")

    def __ne__(self, other: object) -> bool:
        return not self == other


def fill_tables() -> None:
    """Add the TanhMax model types to the tables of PEFT and Liger, if they are imported; a row that is there already stays."""
    for table in (*_peft_tables(), *_liger_tables()):
        for ours, upstream in UPSTREAM_TYPES.items():
            if upstream in table and upstream != "vit":
                table.setdefault(ours, table[upstream])
    for table in _peft_tables():
        if ATTENTION.issuperset(table.get("llama", ["none"])):
            table.setdefault("tanhmax_vit", table["llama"])


def _peft_tables() -> Iterator[dict[str, list[str]]]:
    if "peft.utils.constants" in sys.modules:
        for name, table in vars(sys.modules["peft.utils.constants"]).items():
            if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MODULES_MAPPING"):
                yield table


def _liger_tables() -> Iterator[dict[str, Any]]:
    table = getattr(sys.modules.get("liger_kernel.transformers.monkey_patch"), "MODEL_TYPE_TO_APPLY_LIGER_FN", None)
    if table is not None:
        yield table
