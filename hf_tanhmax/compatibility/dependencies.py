"""What this package uses of other packages beyond their stable public names: private names, and public ones that have moved.

Each entry says where the thing is, which module of ours uses it, and what it means if it is gone. A release is checked against it by
reading its source (`python -m hf_tanhmax.compatibility`); a private name that is used and not listed here fails a test.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .sources import Release

EXPERIMENTAL = "distributed/tensor/experimental/"
CONTEXT_PARALLEL = f"{EXPERIMENTAL}_context_parallel/"
CONTINUOUS = "generation/continuous_batching/"
AUTO = "models/auto/"
ARCHITECTURES = "models.architectures"
NO_TANHMAX = "no attention module is recognised, so `use_tanhmax` and every TanhMax class raise"
GATHERED = "decoding in continuous batching gathers all keys of a layer, or fails"


@dataclass(frozen=True)
class Dependency:
    """One name of another package that this package uses.

    Attributes:
        package: where it is from.
        places: file and name, as `Release.has` reads them; releases differ, so one of them is enough.
        used_by: modules of this package or of `recipes`.
        gone: what it means if it is nowhere; goes on from "if it is gone,".
    """

    package: str
    places: tuple[tuple[str, str], ...]
    used_by: tuple[str, ...]
    gone: str

    @property
    def name(self) -> str:
        """The name that it has, or had first."""
        return self.places[0][1].strip('"')

    def found_in(self, release: Release) -> bool:
        """Whether a release has it; also where the package is not installed, as nothing is then asked of it."""
        return self.package not in release.packages or any(release.has(self.package, *place) for place in self.places)


def _needs(package: str, path: str, name: str, used_by: str, gone: str) -> Dependency:
    return Dependency(package, ((path, name),), tuple(used_by.split()), gone)


TRANSFORMERS = (
    *(
        _needs("transformers", "integrations/hub_kernels.py", f'"{name}"', "integration.hub_kernel", "no kernel of ours is called")
        for name in ("flash_attn_forward", "supports_flash_attn")
    ),
    _needs("transformers", "cli/transformers.py", "main", "cli.serve", "`transformers serve` cannot be called"),
    _needs("transformers", "utils/import_utils.py", "is_serve_available", "cli.serve", "packages that serving lacks are not named"),
    _needs("transformers", "modeling_utils.py", "ALL_ATTENTION_FUNCTIONS", "integration.patching", NO_TANHMAX),
    _needs(
        "transformers", "modeling_utils.py", "AttentionInterface", "integration.registration", "no attention function can be registered"
    ),
    _needs("transformers", "masking_utils.py", "AttentionMaskInterface", "integration.registration", "padding and windows are not masked"),
    _needs("transformers", "activations.py", "ACT2CLS", "interpret.attribution.decomposition.rules", "AttnLRP knows no activation"),
    _needs("transformers", "masking_utils.py", "sdpa_mask", "integration.registration", "there is no boolean mask to register"),
    _needs(
        "transformers",
        "configuration_utils.py",
        "PreTrainedConfig._attn_implementation",
        "integration.patching integration.hub_kernel models.family conversion.convert interpret.attribution.evaluation_mode "
        "integration.hooks training.health",
        "modules ask another question for their attention function, and a config view answers none",
    ),
    _needs(
        "transformers",
        "configuration_utils.py",
        "PreTrainedConfig.to_json_file(use_diff)",
        "models.family",
        "the file of code is not written beside a saved model",
    ),
    _needs(
        "transformers",
        "configuration_utils.py",
        '"_name_or_path"',
        "conversion.convert interpret.attribution.evaluation_mode",
        "a converted model keeps the name of its origin, or a measured one has none",
    ),
    _needs(
        "transformers",
        "configuration_utils.py",
        '"strict"',
        ARCHITECTURES,
        "configs are no strict dataclasses, and nothing calls `validate_tanhmax`",
    ),
    _needs(
        "transformers",
        "modeling_utils.py",
        "PreTrainedModel._supports_flash_attn",
        "models.family",
        "`generate_batch` may switch a TanhMax model to FlashAttention, which is softmax",
    ),
    _needs(
        "transformers",
        "modeling_utils.py",
        "PreTrainedModel._supports_flex_attn",
        "models.family",
        "a TanhMax model may be set to flex attention",
    ),
    _needs("transformers", "modeling_utils.py", "PreTrainedModel._keys_to_ignore_on_load_missing", "models.family", "biases seem missing"),
    _needs("transformers", "modeling_utils.py", "PreTrainedModel.initialize_weights", "models.family", "score biases start at 0"),
    _needs("transformers", "initialization.py", "constant_", "models.family", "score biases are set anew after they were loaded"),
    _needs(
        "transformers",
        "distributed/mixin.py",
        "DistributedMixin.tp_plan",
        "models.family",
        "tensor parallelism does not share score biases out",
    ),
    _needs("transformers", "modeling_utils.py", "PreTrainedModel._from_config", "recipes.benchmarks.generate", "it makes no model"),
    _needs(
        "transformers",
        "conversion_mapping.py",
        "get_checkpoint_conversion_mapping",
        ARCHITECTURES,
        "checkpoints whose weights have other names than the modules load as random weights into TanhMax classes",
    ),
    _needs(
        "transformers",
        "conversion_mapping.py",
        "register_checkpoint_conversion_mapping(overwrite)",
        ARCHITECTURES,
        "checkpoints whose weights have other names than the modules load as random weights into TanhMax classes",
    ),
    _needs(
        "transformers",
        AUTO + "configuration_auto.py",
        "AutoConfig.register(exist_ok)",
        ARCHITECTURES,
        "no model type is registered",
    ),
    _needs(
        "transformers",
        AUTO + "auto_factory.py",
        "_BaseAutoModelClass.register(exist_ok)",
        ARCHITECTURES,
        "no Auto class finds our heads",
    ),
    _needs(
        "transformers",
        AUTO + "auto_factory.py",
        '"_model_mapping"',
        ARCHITECTURES,
        "it is not known which heads an architecture has",
    ),
    _needs("transformers", AUTO + "configuration_auto.py", "CONFIG_MAPPING_NAMES", ARCHITECTURES, "no model type is known"),
    *(
        _needs(
            "transformers", AUTO + "modeling_auto.py", f"MODEL_FOR_{task}_MAPPING_NAMES", ARCHITECTURES, "libraries misjudge TanhMax types"
        )
        for task in ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ")
    ),
    *(
        _needs("transformers", AUTO + f"{path}.py", name, ARCHITECTURES, "a TanhMax type finds no such processor")
        for path, name in (
            ("tokenization_auto", "TOKENIZER_MAPPING"),
            ("feature_extraction_auto", "FEATURE_EXTRACTOR_MAPPING"),
            ("video_processing_auto", "VIDEO_PROCESSOR_MAPPING"),
            ("processing_auto", "PROCESSOR_MAPPING"),
            ("image_processing_auto", "IMAGE_PROCESSOR_MAPPING"),
            ("image_processing_auto", "IMAGE_PROCESSOR_MAPPING_NAMES"),
        )
    ),
    *(
        _needs("transformers", AUTO + "tokenization_auto.py", name, ARCHITECTURES, "a wrong tokenizer class in files is not corrected")
        for name in ("TOKENIZER_MAPPING_NAMES", "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS")
    ),
    _needs(
        "transformers",
        "dynamic_module_utils.py",
        "get_relative_imports",
        "models.bundle",
        "the rules for a published file have changed: which files are copied, and what they may import",
    ),
    _needs(
        "transformers",
        "dynamic_module_utils.py",
        "check_imports",
        "models.bundle",
        "the rules for a published file have changed: imports of packages that need not be there",
    ),
    _needs("transformers", CONTINUOUS + "cache.py", "PagedAttentionCache.update(layer_idx)", "integration.serving", GATHERED),
    Dependency(
        "transformers",
        (
            (CONTINUOUS + "cache.py", "PagedAttentionCache.update(kwargs)"),
            (CONTINUOUS + "cache.py", "PagedAttentionCache.update(read_index)"),
        ),
        ("integration.serving",),
        "a paged cache takes its indices in another way",
    ),
    Dependency(
        "transformers",
        (
            (CONTINUOUS + "cache.py", "PagedAttentionCache.layer_to_allocator"),
            (CONTINUOUS + "cache.py", "PagedAttentionCache.layer_index_to_group_indices"),
        ),
        ("integration.serving",),
        GATHERED,
    ),
    Dependency(
        "transformers",
        (
            (CONTINUOUS + "cache_allocators/cache_allocator.py", "CacheAllocator.get_cache_for_block_table(layer_idx)"),
            (CONTINUOUS + "cache.py", "PagedAttentionCache.key_cache"),
        ),
        ("integration.serving",),
        GATHERED,
    ),
    Dependency(
        "transformers",
        (
            (CONTINUOUS + "cache_allocators/cache_allocator.py", "CacheAllocator.supports_block_table"),
            (CONTINUOUS + "cache.py", "PagedAttentionCache.sliding_windows"),
        ),
        ("integration.serving",),
        "a ring that holds a window is read as if it held all keys",
    ),
    *(
        _needs("transformers", CONTINUOUS + "input_outputs.py", f"PagedAttentionArgs.{name}", "integration.serving", GATHERED)
        for name in ("cache", "read_index", "write_index", "cu_seq_lens_q", "cu_seq_lens_k")
    ),
    Dependency(
        "transformers",
        tuple((CONTINUOUS + "input_outputs.py", f"PagedAttentionArgs.{name}") for name in ("max_length_q", "max_seqlen_q")),
        ("integration.serving",),
        GATHERED,
    ),
    *(
        _needs(
            "transformers",
            CONTINUOUS + "continuous_api.py",
            f'"{label}"',
            "integration.patching",
            "continuous batching accepts other names of attention functions",
        )
        for label in ("paged|", "sdpa")
    ),
    Dependency(
        "transformers",
        tuple(("models/llama/modeling_llama.py", f"LlamaAttention.forward({name})") for name in ("cache", "past_key_values")),
        ("integration.serving", "recipes.benchmarks.generate"),
        "a cache has yet another name",
    ),
    Dependency(
        "transformers",
        tuple(("training_args.py", f"TrainingArguments.{name}") for name in ("activation_checkpointing", "gradient_checkpointing")),
        ("training.trainer",),
        "recipes cannot ask for activation checkpointing",
    ),
    _needs(
        "transformers",
        "trainer_utils.py",
        "PredictionOutput",
        "training.tasks.metrics training.tasks.task training.tasks.text",
        "the tasks of recipes cannot be imported",
    ),
)
COMPANIONS = (
    _needs("huggingface_hub", "dataclasses.py", "strict", ARCHITECTURES, "TanhMax configs cannot be defined"),
    _needs("huggingface_hub", "dataclasses.py", '"validate_"', "models.family", "nothing calls `validate_tanhmax`"),
    _needs("huggingface_hub", "errors.py", "StrictDataclassError", "checkpoint", "a config that holds a wrong value ends in a traceback"),
    _needs(
        "peft",
        "utils/constants.py",
        "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING",
        "models.family doctor.environment",
        "adapters find no default target modules in TanhMax models",
    ),
    _needs("peft", "utils/constants.py", '"_MODULES_MAPPING"', "models.family", "the tables of PEFT's methods have other names"),
    _needs(
        "peft",
        "tuners/tuners_utils.py",
        "BaseTuner.get_model_config",
        "models.family",
        "PEFT does not ask for a config's dictionary before it looks a table up, so the rows come too late",
    ),
    _needs(
        "accelerate",
        "parallelism_config.py",
        '"PARALLELISM_CONFIG_SP_SIZE"',
        "integration.registration",
        "sequence parallelism is not refused, and every rank attends to its own part",
    ),
    _needs(
        "accelerate", "state.py", "is_initialized", "integration.registration", "sequence parallelism that a script asks for is not refused"
    ),
    _needs(
        "torch",
        f"{CONTEXT_PARALLEL}_attention.py",
        "_distribute_function(device_mesh)",
        "attention.api",
        "context parallelism is not noticed, and every rank attends to its own part",
    ),
    *(
        _needs(
            "torch", f"{EXPERIMENTAL}_attention.py", f'"{name}"', "attention.ring_context", "context parallelism fails with an ImportError"
        )
        for name in ("_attention", "_cp_options")
    ),
    _needs(
        "torch",
        f"{CONTEXT_PARALLEL}_load_balancer.py",
        "_HeadTailLoadBalancer",
        "attention.ring_context",
        "ranks hold other chunks than the ring takes them to",
    ),
    *(
        _needs(
            "torch",
            "_meta_registrations.py",
            f'"{name}"',
            "attention.composed.aten_kernels",
            "`composed` has no stock kernel on that device",
        )
        for kind in ("flash_attention", "cudnn_attention", "efficient_attention", "flash_attention_for_cpu")
        for name in (f"_scaled_dot_product_{kind}", f"_scaled_dot_product_{kind}_backward")
    ),
    _needs(
        "accelerate", "hooks.py", "remove_hook_from_module", "conversion.convert", "learned score biases of layers on the disk stay there"
    ),
    _needs(
        "accelerate",
        "hooks.py",
        '"_hf_hook"',
        "integration.patching",
        "score biases are made where the weights are kept, and not where they are used",
    ),
    _needs(
        "torch",
        "nn/modules/module.py",
        '"_parameters"',
        "integration.patching integration.detection.attention_facts",
        "`restore` leaves score biases behind",
    ),
    *(
        _needs(
            "torch",
            "nn/modules/module.py",
            f'"{name}"',
            "integration.detection.attention_facts",
            "a module's parts that are None are taken for anything",
        )
        for name in ("_buffers", "_modules")
    ),
    _needs("torch", "autograd/forward_ad.py", '"_current_level"', "attention.call", "forward-mode derivatives are left out without a word"),
    *(
        _needs("torch", f"_C/{path}.pyi", f'"{name}"', used_by, "whoever looks on sees no operator, or takes a mask for a constant")
        for path, name, used_by in (
            ("__init__", "_len_torch_dispatch_stack", "attention.ops attention.sharing"),
            ("_functorch", "get_interpreter_stack", "attention.call attention.ops attention.sharing"),
            ("__init__", "_C", "attention.call attention.ops attention.sharing"),
            ("__init__", "_functorch", "attention.call attention.ops attention.sharing"),
        )
    ),
    *(
        _needs("torch", "overrides.py", f'"{name}"', "attention.sharing", "what was read of a mask is used after the mask was written to")
        for name in ("_version", "_base")
    ),
)
ENGINES = (
    _needs(
        "transformers",
        "integrations/deepspeed.py",
        "unset_hf_deepspeed_config",
        "training.run",
        "a run with ZeRO-3 ends with an error when its model is read again",
    ),
    _needs(
        "transformers",
        "modeling_utils.py",
        '"_no_split_modules"',
        "training.trainer",
        "FSDP 2 does not train a model whose embeddings nest",
    ),
    _needs(
        "vllm",
        "model_executor/models/transformers/base.py",
        '"_create_attention_instances"',
        "vllm.model",
        "vLLM's attention layers are not taken over, and no TanhMax model starts",
    ),
    _needs("torch", "_inductor/__init__.py", '"_inductor"', "recipes.benchmarks.export", "AOTInductor's speed is not measured"),
)
DEPENDENCIES = TRANSFORMERS + COMPANIONS + ENGINES
PACKAGES = tuple(dict.fromkeys(each.package for each in DEPENDENCIES))


def missing(release: Release, dependencies: Iterable[Dependency] = DEPENDENCIES) -> list[Dependency]:
    """What a release lacks of it."""
    return [each for each in dependencies if not each.found_in(release)]
