"""What can be explained, and sentences for what cannot."""

import numpy
import pytest
import torch
from families import images, text, tiny_model
from PIL import Image
from tiny_tokenizers import byte_pieces, word_pieces

import hf_tanhmax
from hf_tanhmax.interpret.inputs.encoding import encode, length_limit, short_input


def bert():
    return tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)


def vit(**changes):
    return tiny_model(hf_tanhmax.TanhMaxViTForImageClassification, **changes)


def halve(images, return_tensors):
    return {"pixel_values": torch.tensor(numpy.asarray(images)).permute(2, 0, 1)[None].float() / 255}


def test_a_text():
    found = encode(bert(), "a good film", tokenizer=word_pieces())
    assert found.inputs["input_ids"].tolist() == [[2, 5, 6, 8, 3]]
    assert found.tokens == ("[CLS]", "a", "good", "film", "[SEP]")
    assert found.words == (None, 0, 1, 2, None)
    assert found.word_texts == ("a", "good", "film")
    assert found.content_positions == (1, 2, 3)


def test_a_pair_of_texts():
    found = encode(bert(), ("a film", "not bad"), tokenizer=word_pieces())
    assert found.words == (None, 0, 1, None, 2, 3, None)
    assert found.word_texts == ("a", "film", "not", "bad")
    assert found.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_an_encoded_batch_loses_its_padding_on_either_side():
    mask = torch.tensor([[0, 0, 1, 1, 1, 0]])
    found = encode(bert(), {"input_ids": text(1, 6), "attention_mask": mask, "labels": None})
    assert found.inputs["input_ids"].tolist() == text(1, 6)[:, 2:5].tolist()
    assert found.inputs["attention_mask"].tolist() == [[1, 1, 1]]
    assert found.words == (0, 1, 2)


def test_a_batch_of_a_tokenizer_names_its_tokens():
    tokenizer = word_pieces()
    found = encode(bert(), tokenizer("a good film", return_tensors="pt", padding="max_length", max_length=9), tokenizer=tokenizer)
    assert found.tokens == ("[CLS]", "a", "good", "film", "[SEP]")
    assert found.words == (None, 0, 1, 2, None)


def test_padding_that_no_mask_hides_is_found():
    tokenizer = word_pieces()
    batch = tokenizer("a good film", return_tensors="pt", padding="max_length", max_length=7)
    found = encode(bert(), {"input_ids": batch["input_ids"]}, tokenizer=tokenizer)
    assert found.tokens[-2:] == ("[PAD]", "[PAD]")
    assert found.padding == (5, 6)
    assert encode(bert(), batch, tokenizer=tokenizer).padding == ()
    tokenizer.pad_token = tokenizer.sep_token  # which then is another special one
    assert encode(bert(), {"input_ids": batch["input_ids"]}, tokenizer=tokenizer).padding == ()


def test_a_picture():
    picture = Image.new("RGB", (15, 15), (255, 0, 0))
    found = encode(vit(), picture, processor=halve)
    assert found.is_image
    assert found.image is not None
    assert found.inputs["pixel_values"][0, :, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_a_picture_of_another_mode_is_refused(mode):
    with pytest.raises(ValueError, match=rf'the picture has mode "{mode}".*reads 3 channels; give image.convert\("RGB"\)'):
        encode(vit(), Image.new(mode, (15, 15)), processor=halve)


def test_a_model_of_grey_pictures_wants_grey_ones():
    with pytest.raises(ValueError, match=r'has mode "RGB".*reads 1 channels; give image.convert\("L"\)'):
        encode(vit(num_channels=1), Image.new("RGB", (15, 15)), processor=halve)


@pytest.mark.parametrize("words", ["", "  \n", ("", "film")])
def test_an_empty_text_is_refused(words):
    with pytest.raises(ValueError, match="the text is empty"):
        encode(bert(), words, tokenizer=word_pieces())


def test_a_text_longer_than_the_model_is_refused_or_cut():
    long = "film " * 70
    with pytest.raises(
        ValueError, match="the text has 72 tokens, but TanhMaxBertForSequenceClassification reads 64; shorten it, or give max_length=64"
    ):
        encode(bert(), long, tokenizer=word_pieces())
    found = encode(bert(), long, tokenizer=word_pieces(), max_length=10)
    assert (len(found.tokens), found.cut) == (10, 62)
    assert encode(bert(), "film", tokenizer=word_pieces(), max_length=10).cut == 0
    assert encode(bert(), ("a film", "good film"), tokenizer=word_pieces(), max_length=5).cut == 2
    with pytest.raises(ValueError, match="the text has 65 tokens"):
        encode(bert(), {"input_ids": text(1, 65)})


def test_the_tokenizer_may_know_a_smaller_limit():
    assert length_limit(bert(), word_pieces(model_max_length=32)) == 32
    assert length_limit(bert(), byte_pieces()) == 64


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ("a film", ValueError, "a text needs tokenizer="),
        (Image.new("RGB", (15, 15)), ValueError, "a picture needs processor="),
        (7, TypeError, "takes a text, a PIL image or an encoded batch of one, but got int"),
        ({"input_ids": text(2, 5)}, ValueError, "one input at a time, but the batch has 2"),
        ({"pixel_values": images(2)}, ValueError, "one input at a time, but the batch has 2"),
        ({"ids": text(1, 5)}, ValueError, "either input_ids or pixel_values"),
        ({"input_ids": text(1, 3), "attention_mask": torch.zeros(1, 3, dtype=torch.long)}, ValueError, "hides every token"),
    ],
)
def test_what_cannot_be_explained_is_refused(inputs, error, message):
    with pytest.raises(error, match=message):
        encode(bert(), inputs)


def test_a_text_of_special_tokens_only_is_refused():
    with pytest.raises(ValueError, match="no token that is not special"):
        encode(bert(), "[MASK]", tokenizer=word_pieces())


def test_tokens_that_stand_for_unknown_words_are_named():
    tokenizer = word_pieces()
    found = encode(bert(), "a zebra film quux", tokenizer=tokenizer)
    assert found.tokens == ("[CLS]", "a", "[UNK]", "film", "[UNK]", "[SEP]")
    assert found.unknown == (2, 4)
    assert encode(bert(), tokenizer("a zebra", return_tensors="pt"), tokenizer=tokenizer).unknown == (2,)
    assert encode(bert(), "a good film", tokenizer=tokenizer).unknown == ()
    assert encode(bert(), {"input_ids": text(1, 6)}).unknown == ()


@pytest.mark.parametrize(("eos", "known"), [(50_256, 30), (7, 30), (None, 30), (None, 4)])
def test_a_short_input_has_tokens_that_the_model_knows(eos, known):
    """A GPU ends the process that looks another one up."""
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)
    model.config.eos_token_id, model.config.vocab_size = eos, known
    found = short_input(model)
    assert (found is None) == (known == 4)
    if found is not None:
        assert found["input_ids"].tolist() == [[1, 2, 3, 4, 7 if eos == 7 else 5]]
