"""Batches to calibrate with, from texts, pictures, rows of data sets and batches; and what is none of them."""

import pytest
import torch
import transformers
from datasets import Dataset
from families import BACKBONES, images, inputs_for, text, tiny_model
from image_processors import load_images
from PIL import Image
from saved_models import processor_for

import hf_tanhmax
from hf_tanhmax.conversion.calibration.inputs import LENGTH, calibration_batches, pack

TEXTS = ["not funny", "a film", "at all", "look", "gripping"]


def bert(**changes):
    return tiny_model(BACKBONES["bert"], **changes)


def language_model():
    return tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM, vocab_size=300)


def pictures(count=5):
    return [Image.effect_noise((20, 20), 30 + 10 * number).convert("RGB") for number in range(count)]


def same(found, wanted):
    assert len(found) == len(wanted)
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(dict(mine), dict(other))


def encoded(tokenizer, size=2):
    return [tokenizer(TEXTS[start : start + size], padding=True, return_tensors="pt") for start in range(0, len(TEXTS), size)]


# Texts


@pytest.mark.parametrize("kind", ["list", "iterator", "data set", "list of rows", "one column of texts"])
def test_texts(kind):
    tokenizer = processor_for("bert")
    data = {
        "list": TEXTS,
        "iterator": iter(TEXTS),
        "data set": Dataset.from_dict({"label": [0] * 5, "other": ["x"] * 5, "text": TEXTS}),
        "list of rows": [{"text": each, "label": 0} for each in TEXTS],
        "one column of texts": Dataset.from_dict({"sentence": TEXTS, "label": [0] * 5}),
    }[kind]
    same(calibration_batches(bert(), data, tokenizer, batch_size=2), encoded(tokenizer))


def test_texts_for_an_encoder_and_a_decoder():
    """The decoder writes what the encoder reads, one token later."""
    small = {"vocab_size": 300, "d_model": 24, "d_kv": 6, "d_ff": 13, "num_heads": 4, "num_layers": 1}
    for start in (0, 7):
        config = transformers.T5Config(**small, decoder_start_token_id=start)
        tokenizer = processor_for("bert")
        batch = calibration_batches(transformers.T5ForConditionalGeneration(config), TEXTS, tokenizer, batch_size=2)[0]
        assert sorted(batch) == ["attention_mask", "decoder_attention_mask", "decoder_input_ids", "input_ids"]
        assert torch.equal(batch["input_ids"], encoded(tokenizer)[0]["input_ids"])
        assert batch["decoder_input_ids"][:, 0].tolist() == [start, start]
        assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["input_ids"][:, :-1])
    model = hf_tanhmax.convert(transformers.T5Model(config), calibrate=TEXTS * 3, processor=tokenizer)
    assert model.config.tanhmax_settings == hf_tanhmax.TanhMaxSettings(0.2, shift="balanced")


def test_mappings_of_several_inputs_stay_as_they_are():
    """Patches of several pictures in one list, and inputs that are lists of tensors."""
    patches = [{"pixel_values": torch.zeros(12, 5), "grid_thw": torch.ones(3, 3)}]
    features = [{"queries": torch.zeros(2, 3, 5), "features": [torch.zeros(2, 5, 4, 4), torch.zeros(2, 5, 2, 2)]}]
    for data in (patches, features):
        assert calibration_batches(tiny_model(BACKBONES["vit"]), data) == data


def test_longer_texts_are_cut():
    tokenizer = processor_for("bert")
    assert calibration_batches(bert(), TEXTS, tokenizer, length=3)[0]["input_ids"].shape == (5, 3)
    assert calibration_batches(bert(max_position_embeddings=5), ["film " * 99], tokenizer)[0]["input_ids"].shape == (1, 5)


def test_the_tokenizer_of_the_checkpoint_is_read(tmp_path):
    bert().save_pretrained(tmp_path)
    processor_for("bert").save_pretrained(tmp_path)
    same(calibration_batches(bert(), TEXTS, source=str(tmp_path), batch_size=2), encoded(processor_for("bert")))


def test_rows_are_encoded_when_they_are_asked_for():
    seen, tokenizer = [], processor_for("bert")
    batches = calibration_batches(bert(), TEXTS, lambda texts, **options: seen.append(texts) or tokenizer(texts, **options), batch_size=2)
    assert not seen
    assert batches[2]["input_ids"].shape[0] == 1
    assert seen == [["gripping"]]
    assert len(batches[1:]) == 2
    with pytest.raises(IndexError):
        batches[3]


def test_rows_that_are_encoded():
    tokenizer = processor_for("bert")
    rows = Dataset.from_dict(dict(tokenizer(TEXTS)) | {"label": [0] * 5})
    for data in (rows, list(rows), rows.with_format("torch")):
        same(calibration_batches(bert(), data, tokenizer, batch_size=2), encoded(tokenizer))
    one = [{"input_ids": each} for each in text(6, 9)]
    same(calibration_batches(bert(), one, batch_size=4), [{"input_ids": text(6, 9)[:4]}, {"input_ids": text(6, 9)[4:]}])
    pixels = [{"pixel_values": each, "labels": 0} for each in images(3)]
    same(calibration_batches(tiny_model(BACKBONES["vit"]), pixels), [{"pixel_values": images(3)}])


# A language model


def test_texts_are_put_end_to_end():
    tokenizer = processor_for("llama")
    batches = calibration_batches(language_model(), TEXTS, tokenizer, length=7, batch_size=2)
    stream = [token for each in TEXTS for token in [*tokenizer(each, add_special_tokens=False).input_ids, tokenizer.eos_token_id]]
    pieces = [torch.tensor(stream[start : start + 7]) for start in range(0, len(stream) - 6, 7)]
    same(batches, [{"input_ids": torch.stack(pieces[start : start + 2])} for start in range(0, len(pieces), 2)])
    assert calibration_batches(language_model(), TEXTS * 99, tokenizer)[0]["input_ids"].shape == (2048 // 60, 60)
    assert LENGTH > 60 == tokenizer.model_max_length


def test_pieces_begin_as_texts_do():
    class Beginning:
        eos_token_id = None

        def __call__(self, text, add_special_tokens=True, verbose=True):
            found = type("Encoding", (), {})()
            found.input_ids = [9] * add_special_tokens + [ord(each) for each in text]
            return found

    assert [piece.tolist() for piece in pack(["abcd", "ef"], Beginning(), 3)] == [[9, 97, 98], [9, 99, 100], [9, 101, 102]]


def test_too_little_text():
    with pytest.raises(ValueError, match=r"the texts have \d+ tokens in all, which is less than one piece of 60; give more"):
        calibration_batches(language_model(), TEXTS, processor_for("llama"))


# Pictures and batches


@load_images
@pytest.mark.parametrize("kind", ["list", "data set", "list of rows"])
def test_pictures(kind):
    processor, found = processor_for("vit"), pictures()
    data = {
        "list": found,
        "data set": Dataset.from_dict({"img": found, "label": [0] * 5}),
        "list of rows": [{"scan": each} for each in found],
    }[kind]
    batches = calibration_batches(tiny_model(BACKBONES["vit"]), data, processor, batch_size=3)
    same(batches, [processor(images=found[:3], return_tensors="pt"), processor(images=found[3:], return_tensors="pt")])


@pytest.mark.parametrize("family", BACKBONES)
def test_batches_stay_as_they_are(family):
    data = [inputs_for(family), inputs_for(family)]
    model = tiny_model(BACKBONES[family])
    for given in (data, tuple(data), iter(data), torch.utils.data.DataLoader(data, batch_size=None)):
        same(calibration_batches(model, given), data)


# What is refused


@pytest.mark.parametrize("data", [[], (), iter([]), Dataset.from_dict({"text": []})])
def test_nothing(data):
    with pytest.raises(ValueError, match="there is nothing to calibrate with; give some inputs, such as 256 texts in all"):
        calibration_batches(bert(), data)


@pytest.mark.parametrize("data", ["rows.csv", inputs_for("bert"), 3])
def test_no_list(data):
    with pytest.raises(
        TypeError, match=r"calibrate with a list of texts, pictures or batches, or a datasets\.Dataset, but not with a \w+;"
    ):
        calibration_batches(bert(), data)


def test_a_list_of_something_else():
    with pytest.raises(TypeError, match=r"batches must be a list of mappings of the model's inputs, .* but holds int"):
        calibration_batches(bert(), [1, 2])


def test_inputs_of_another_kind():
    vit = tiny_model(BACKBONES["vit"])
    with pytest.raises(ValueError, match="TanhMaxViTModel reads pictures, but it is to be calibrated with texts; give it some of"):
        calibration_batches(vit, TEXTS, processor_for("vit"))
    with pytest.raises(ValueError, match="TanhMaxBertModel reads texts, but it is to be calibrated with pictures"):
        calibration_batches(bert(), pictures(), processor_for("bert"))
    with pytest.raises(ValueError, match="TanhMaxViTModel reads pictures, but a row to calibrate with has no pictures in its columns text"):
        calibration_batches(vit, Dataset.from_dict({"text": TEXTS, "label": [0] * 5}), processor_for("vit"))
    with pytest.raises(ValueError, match=r"a row to calibrate with has several columns of texts \(premise, hypothesis\); keep one of them"):
        calibration_batches(bert(), [{"premise": "a", "hypothesis": "b"}], processor_for("bert"))


def test_no_processor(tmp_path):
    with pytest.raises(ValueError, match=r"to calibrate with these rows takes a tokenizer; pass processor=AutoTokenizer\.from_pretrained"):
        calibration_batches(bert(), TEXTS, source=str(tmp_path))
    bert().save_pretrained(tmp_path)  # of which Transformers makes a tokenizer that knows no word
    with pytest.raises(ValueError, match="takes a tokenizer"):
        calibration_batches(bert(), TEXTS, source=str(tmp_path))
    with pytest.raises(ValueError, match="takes an image processor; pass processor=AutoImageProcessor"):
        calibration_batches(tiny_model(BACKBONES["vit"]), pictures())
    with pytest.raises(ValueError, match="encoded rows of different lengths need their tokenizer, which pads them; pass processor="):
        _ = calibration_batches(bert(), [{"input_ids": [1, 2]}, {"input_ids": [1]}])[0]
