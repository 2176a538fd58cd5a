"""The published file serves any architecture, without the plugin as with it, and beside files of other versions."""

from dataclasses import replace

import pytest
import torch
import transformers
from families import images, run, tensors_of
from image_processors import images_load
from published_code import assert_reads, doubled
from supported_models import ARCHITECTURES, DECODER, Architecture
from tiny_tokenizers import byte_pieces

from hf_tanhmax.models.architectures import class_named
from hf_tanhmax.models.remote_code import CODE_FILE

CASES = {case.name: case for case in ARCHITECTURES}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size": 16}  # torch's product by groups wants rows of 16 bytes
MIXTRAL = Architecture("Mixtral", "MixtralModel", {**DECODER, **EXPERTS})
PUBLISHED = {
    "qwen3": (CASES["Qwen3"], "AutoModelForCausalLM"),
    "gemma3_text": (CASES["Gemma 3"], "AutoModelForCausalLM"),
    "mixtral": (MIXTRAL, "AutoModelForCausalLM"),
    "roberta": (CASES["RoBERTa"], "AutoModelForMaskedLM"),
    "dinov2": (CASES["DINOv2"], "AutoModelForImageClassification"),
    "clip": (CASES["CLIP"], None),
    "t5": (replace(CASES["T5"], values={**CASES["T5"].values, "decoder_start_token_id": 0}), "AutoModelForSeq2SeqLM"),
    "whisper": (CASES["Whisper"], "AutoModelForSpeechSeq2Seq"),
}
WAYS = [{"max_new_tokens": 4, "do_sample": False, **more} for more in ({}, {"use_cache": False}, {"num_beams": 2})]
TWO = ("qwen3/AutoModelForCausalLM", "dinov2/AutoModel")  # of which there is another version


def processors_of(name):
    """Of a checkpoint, by the Auto class that loads them, with what they are called with."""
    words = {"text": "a good film not bad"}
    picture, square = {"images": (images()[0].sigmoid() * 255).to(torch.uint8)}, {"size": {"shortest_edge": 15}, "crop_size": 15}
    if name in ("dinov2", "clip") and not images_load():
        return {}
    if name == "dinov2":
        return {"AutoImageProcessor": (transformers.BitImageProcessorPil(**square), picture)}
    if name == "whisper":
        wave = {"raw_speech": torch.sin(torch.arange(800.0)).tolist(), "sampling_rate": 16000}
        return {"AutoFeatureExtractor": (transformers.WhisperFeatureExtractor(feature_size=5, chunk_length=1), wave)}
    if name == "clip":
        parts = {"tokenizer": byte_pieces(), "image_processor": transformers.CLIPImageProcessorPil(**square)}
        return {"AutoProcessor": (transformers.CLIPProcessor(**parts), {**words, **picture})}
    return {"AutoTokenizer": (byte_pieces(), words)}


def process(path, name):
    found = {}
    for auto, (made, inputs) in processors_of(name).items():
        made.save_pretrained(path)
        options = {"backend": "pil"} if auto == "AutoImageProcessor" else {}
        processor = getattr(transformers, auto).from_pretrained(path, **options)
        values = dict(processor(**inputs, return_tensors="pt"))
        found[auto] = {"class": type(processor).__name__, "options": options, "inputs": inputs, "found": values}
    return found


def publish(path, name):
    """A checkpoint, and beside it what the package computes with it."""
    torch.manual_seed(0)
    case, auto = PUBLISHED[name][0], getattr(transformers, path.parent.name)
    config = class_named(f"TanhMax{getattr(transformers, case.cls).config_class.__name__}")(**case.values)
    auto.from_config(config).save_pretrained(path / "made")
    model, inputs = auto.from_pretrained(path / "made"), case.example()
    model.save_pretrained(path)
    found = {"inputs": inputs, "outputs": list(tensors_of(run(model, inputs))), "generated": []}
    if model.can_generate():
        prompt = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        found["generated"] = [(way, model.generate(**prompt, **way)) for way in WAYS]
    found["processors"] = process(path, name)
    torch.save(found, path / "expected.pt")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of checkpoints, `<architecture>/<Auto class>/published`, and in `other` two of them by a file of another version."""
    folder = tmp_path_factory.mktemp("published")
    for name, (_, head) in PUBLISHED.items():
        for auto in filter(None, ("AutoModel", head)):
            publish(folder / name / auto / "published", name)
    for place in TWO:
        publish(folder / "other" / place / "published", place.split("/")[0])
        (folder / "other" / place / "published" / CODE_FILE).write_text(doubled())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("role", ["alone", "beside"])
def test_any_architecture_by_the_published_file(role, published):
    assert_reads("architecture_reader.py", published, role)
