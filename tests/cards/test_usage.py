"""The code on a card, for what each model reads; that it runs, `test_card.py` and `test_any_folder.py` say."""

import pytest
from walked import WALKED

from hf_tanhmax.cards import usage
from hf_tanhmax.checkpoint import read_checkpoint

CALLED = {
    "gemma3_text": ('processor("Text to look at.", return', "weights = outputs.attentions", "model.generate(**inputs"),
    "dinov2": ('processor(Image.new("RGB", (64, 64)), return', "weights = outputs.attentions", "model.config.id2label["),
    "clip": ('processor(text=["Text to look at."], images=Image.new("RGB", (64, 64)), return', "outputs = model(**inputs)"),
    "t5": ("decoder_input_ids=start", "weights = outputs.encoder_attentions  # and decoder_attentions, cross_attentions"),
    "bart_classifier": ("model(**inputs, output_attentions=True)", "weights = outputs.encoder_attentions"),
    "whisper": ("sampling_rate=processor.feature_extractor.sampling_rate", "processor.batch_decode(model.generate(**inputs"),
}


@pytest.mark.parametrize("name", CALLED)
def test_the_call_is_the_models_own(name, tmp_path):
    WALKED[name].save(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    found = usage.call(checkpoint)
    assert all(part in found for part in CALLED[name])
    assert ("weights" in found) == usage.shows_weights(checkpoint) == (name != "clip")
    assert str(checkpoint.auto_class) in usage.with_plugin(checkpoint, ".")
    assert "trust_remote_code=True" in usage.without_plugin(checkpoint, ".")
