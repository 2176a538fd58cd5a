"""Code on a model card: how to load the model with the plugin and without it, and how to see its signed weights."""

from collections.abc import Sequence

from ..checkpoint import Checkpoint
from ..results import Run

# What peft has an Auto class for; the others are loaded in two steps.
PEFT_CLASSES = ("SequenceClassification", "CausalLM", "Seq2SeqLM", "TokenClassification", "QuestionAnswering")
WEIGHTS = "weights = outputs.attentions"
BOTH_SIDES = "weights = outputs.encoder_attentions  # and decoder_attentions, cross_attentions"


def example(runs: Sequence[Run], checkpoint: Checkpoint, place: str) -> dict[str, str] | None:
    """A line with `pipeline` and what it printed when the run ended; None where no run has tried it, as of adapters."""
    tried = runs[0].get("example") if runs else None
    if not tried or checkpoint.adapter is not None or checkpoint.pipeline is None:
        return None
    return {
        "task": checkpoint.pipeline,
        "place": place,
        "input": tried["input"],
        "options": tried.get("options", ""),
        "output": " ".join(tried["output"].replace("`", "'").split()),
    }


def with_plugin(checkpoint: Checkpoint, place: str) -> str:
    """Code that loads the model where the plugin is installed.

    Args:
        checkpoint: as its folder has it.
        place: its repository, or ".".
    """
    auto, processor, model_class = checkpoint.auto_class, checkpoint.processor_class, checkpoint.model_class
    peft_class = _peft_class(checkpoint)
    lines = ["import hf_tanhmax  # registers the model types with Transformers"]
    if peft_class:
        lines.append(f"from peft import {peft_class}")
    elif checkpoint.adapter is not None:
        lines.append("from peft import PeftConfig, PeftModel")
    imported = sorted(name for name in (None if peft_class else auto, processor) if name)
    if imported:
        lines.append(f"from transformers import {', '.join(imported)}")
    lines += ["", f'name = "{place}"']
    if peft_class:
        lines.append(f"model = {peft_class}.from_pretrained(name)")
    elif checkpoint.adapter is not None:
        lines += _adapter_lines(str(auto), base="revision=config.revision", adapter="")
    else:
        loader = auto or f"hf_tanhmax.{model_class.__name__ if model_class else 'AutoModel'}"
        lines.append(f"model = {loader}.from_pretrained(name)")
    if processor:
        lines.append(f"processor = {processor}.from_pretrained(name)")
    return "\n".join(lines)


def without_plugin(checkpoint: Checkpoint, place: str) -> str | None:
    """Code that loads the model by the code that it brings along; None where no Auto class loads it, which that takes.

    Args:
        checkpoint: as its folder has it.
        place: its repository, or ".".
    """
    auto, processor = checkpoint.auto_class, checkpoint.processor_class
    if auto is None:
        return None
    lines = ["from peft import PeftConfig, PeftModel"] if checkpoint.adapter is not None else []
    lines.append(f"from transformers import {', '.join(sorted(name for name in (auto, processor) if name))}")
    lines += ["", f'name = "{place}"', 'revision = "main"  # in its place, the hash of the commit whose code you have read']
    if checkpoint.adapter is not None:
        lines += _adapter_lines(auto, base="revision=config.revision, trust_remote_code=True", adapter=", revision=revision")
    else:
        lines.append(f"model = {auto}.from_pretrained(name, revision=revision, trust_remote_code=True)")
    if processor:
        lines.append(f"processor = {processor}.from_pretrained(name, revision=revision)")
    return "\n".join(lines)


def shows_weights(checkpoint: Checkpoint) -> bool:
    """Whether the code that calls the model shows its weights: those of a model of several parts are in several places."""
    return len(_called_with(checkpoint)) == 1


def call(checkpoint: Checkpoint) -> str:
    """Code that calls the loaded model, with its weights where they are in one place, and uses its head."""
    generates = checkpoint.model_class is not None and checkpoint.model_class.can_generate()
    both_sides = bool(getattr(checkpoint.config, "is_encoder_decoder", False))
    kinds, weights = _called_with(checkpoint), shows_weights(checkpoint)
    lines = ["import torch", *(["from PIL import Image"] if "image" in kinds else []), ""]
    if weights:
        lines.append('model.set_attn_implementation("eager")  # "sdpa" is faster and returns no weights')
    lines.append(_inputs(kinds, checkpoint.processor_class))
    starts = both_sides and (generates or checkpoint.auto_class == "AutoModel")
    if starts:
        lines.append("start = torch.tensor([[model.config.decoder_start_token_id]])")
    arguments = ["**inputs", *(["decoder_input_ids=start"] if starts else []), *(["output_attentions=True"] if weights else [])]
    lines += ["with torch.no_grad():", f"    outputs = model({', '.join(arguments)})"]
    if weights:
        lines.append(BOTH_SIDES if both_sides else WEIGHTS)
    if generates and checkpoint.modality == "text":
        lines.append("text = processor.decode(model.generate(**inputs, max_new_tokens=20)[0])")
    elif generates:
        lines.append("text = processor.batch_decode(model.generate(**inputs, max_new_tokens=20))")
    elif checkpoint.pipeline in ("text-classification", "image-classification", "audio-classification"):
        lines.append("answer = model.config.id2label[int(outputs.logits.argmax())]")
    return "\n".join(lines)


def _called_with(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What the model is called with on its card: its main input, and all of them where it compares them."""
    generates = checkpoint.model_class is not None and checkpoint.model_class.can_generate()
    compares = not generates and checkpoint.processor_class == "AutoProcessor"
    return checkpoint.modalities if compares else (checkpoint.modality,)


def _inputs(kinds: tuple[str, ...], processor: str | None) -> str:
    joint = processor == "AutoProcessor"
    text, image = '"Text to look at."', 'Image.new("RGB", (64, 64))'
    if kinds == ("text",):
        return f'inputs = processor({"text=" if joint else ""}{text}, return_tensors="pt")'
    if kinds == ("image",):
        return f'inputs = processor({"images=" if joint else ""}{image}, return_tensors="pt")  # your image in its place'
    if kinds == ("audio",):
        rate = f"processor{'.feature_extractor' if joint else ''}.sampling_rate"
        return f'inputs = processor(torch.zeros({rate}).numpy(), sampling_rate={rate}, return_tensors="pt")  # a second of your sound'
    given = {"text": f"text=[{text}]", "image": f"images={image}"}
    return f'inputs = processor({", ".join(given[kind] for kind in kinds if kind in given)}, return_tensors="pt")  # yours in their places'


def _adapter_lines(auto: str, *, base: str, adapter: str) -> list[str]:
    return [
        f"config = PeftConfig.from_pretrained(name{adapter})",
        f"base = {auto}.from_pretrained(config.base_model_name_or_path, {base})",
        f"model = PeftModel.from_pretrained(base, name{adapter})",
    ]


def _peft_class(checkpoint: Checkpoint) -> str | None:
    stem = (checkpoint.auto_class or "").removeprefix("AutoModelFor")
    return f"AutoPeftModelFor{stem}" if checkpoint.adapter is not None and stem in PEFT_CLASSES else None
