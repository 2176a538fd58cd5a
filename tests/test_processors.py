"""What makes the inputs of a model: which kinds its class needs, and what of them a folder has."""

import pytest
import transformers
from image_processors import load_images
from walked import WALKED, image_processor, tokenizer

from hf_tanhmax.processors import KINDS, auto_processor, knows_words, load_processors, modalities, modality, nouns

FOUND = {
    "BertModel": ("text", ("text",)),
    "ViTModel": ("image", ("image",)),
    "CLIPModel": ("text", ("text", "image")),
    "CLIPForImageClassification": ("image", ("image",)),
    "CLIPTextModel": ("text", ("text",)),
    "WhisperForConditionalGeneration": ("audio", ("text", "audio")),
    "WhisperForAudioClassification": ("audio", ("audio",)),
    "Wav2Vec2ForCTC": ("audio", ("audio",)),
    "LlavaForConditionalGeneration": ("text", ("text", "image")),
    "Qwen2VLForConditionalGeneration": ("text", ("text", "image", "video")),
    "VideoMAEForVideoClassification": ("video", ("video",)),
    "VisionEncoderDecoderModel": ("image", ("text", "image")),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_a_class_reads_and_writes(name):
    cls = getattr(transformers, name)
    assert (modality(cls), modalities(cls)) == FOUND[name]


def test_every_kind_has_an_auto_class():
    assert all(hasattr(transformers, kind.auto_class) for kind in KINDS.values())


@pytest.mark.parametrize(
    ("files", "wanted", "main", "found"),
    [
        (["processor_config.json"], ("text", "image"), "text", "AutoProcessor"),
        (["processor_config.json"], ("image",), "image", "AutoImageProcessor"),
        (["tokenizer_config.json"], ("text", "image"), "text", "AutoTokenizer"),
        (["preprocessor_config.json"], ("text", "audio"), "audio", "AutoFeatureExtractor"),
        (["video_preprocessor_config.json"], ("video",), "video", "AutoVideoProcessor"),
        (["preprocessor_config.json"], ("text",), "text", None),
    ],
)
def test_the_auto_class_of_a_folder(files, wanted, main, found):
    assert auto_processor(files.__contains__, wanted, main) == found


@load_images
def test_those_that_nothing_joins_are_loaded_one_by_one(tmp_path):
    """As beside a `VisionEncoderDecoderModel`."""
    image_processor().save_pretrained(tmp_path)
    tokenizer("text").save_pretrained(tmp_path)
    found, missing = load_processors(str(tmp_path), ("text", "image"), {})
    assert nouns(found) == "tokenizer and image processor"
    assert missing == {}


def test_a_tokenizer_without_words_is_none(tmp_path):
    WALKED["whisper"].processor().feature_extractor.save_pretrained(tmp_path)
    WALKED["whisper"].softmax().config.save_pretrained(tmp_path)
    found, missing = load_processors(str(tmp_path), ("text", "audio"), {})
    assert nouns(found) == "feature extractor"
    assert missing["text"] == f"{tmp_path} has none"
    assert knows_words(found[0])
