"""What the demo answers for each kind of model, and its sentences about inputs that are none."""

import io
import json
import struct
import warnings
import zlib

import pytest
from families import tiny_model
from image_processors import load_images
from PIL import Image
from saved_models import processor_for, save_model
from transformers import BertForSequenceClassification

from hf_tanhmax.cli.demo.answers import LONGEST, Demo
from hf_tanhmax.cli.demo.pages import IN_FRAME
from hf_tanhmax.interpret.inputs.loading import load

QUICK = ("contributions",)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo of a tiny model, of a family with or without another head."""
    made = {}

    def of(family, auto=None):
        if (family, auto) not in made:
            folder = tmp_path_factory.mktemp("model") / f"my-{family}"
            save_model(folder, family, auto)
            made[family, auto] = Demo(load(str(folder)), methods=QUICK, steps=2, max_length=None)
        return made[family, auto]

    return of


def png(side=15):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def huge_png():
    """A file of 68 bytes that says it has 400 million pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )


def test_a_sentence(demo):
    form = demo("bert").form().html
    assert "my-bert" in form
    assert '<option value="1">LABEL_1</option>' in form
    for target, shown in ((b"", "LABEL_"), (b"1", "LABEL_1"), (b"LABEL_0", "LABEL_0")):
        page = demo("bert").explained({"text": b" not funny\r\nat all ", "target": target})
        assert '"funny"' in page.html
        assert f"“{shown}" in page.html
        assert page.policy == IN_FRAME


def data_of(page):
    return json.loads(page.html.split('<script type="application/json" id="data">')[1].split("</script>")[0])


@load_images
def test_classes_can_be_switched_unless_one_is_asked_for(demo):
    for family, given in (("bert", {"text": b"not funny"}), ("vit", {"image": png()})):
        whole = data_of(demo(family).explained(given))
        assert whole["texts"] == [[0, 1]]
        assert {one["target"] for one in whole["explanations"]} == {"LABEL_0", "LABEL_1"}
        assert whole["explanations"][0]["probability"] >= whole["explanations"][1]["probability"]
        assert data_of(demo(family).explained({**given, "target": b"1"}))["texts"] == [[0]]
    assert data_of(demo("llama").explained({"text": b"not funny at"}))["texts"] == [[0]]


def test_a_word_and_the_next_token(demo):
    assert "A text with one [MASK]" in demo("bert", "AutoModelForMaskedLM").form().html
    assert '"funny"' in demo("bert", "AutoModelForMaskedLM").explained({"text": b"not [MASK] funny"}).html
    assert "The beginning of a text" in demo("llama").form().html
    assert '"funny"' in demo("llama").explained({"text": b"not funny at"}).html.replace("Ġ", "").replace("▁", "").replace('" ', '"')
    tokens = demo("bert", "AutoModelForTokenClassification")
    assert 'name="position"' in tokens.form().html
    assert '"funny"' in tokens.explained({"text": b"not funny", "position": b"1"}).html
    for word in ("first", "--1"):
        with pytest.raises(ValueError, match=f"the position must be a whole number, but is '{word}'"):
            tokens.explained({"text": b"not funny", "position": word.encode()})


@load_images
def test_an_image(demo):
    assert 'type="file"' in demo("vit").form().html
    assert "data:image/png;base64," in demo("vit").explained({"image": png()}).html
    for image, said in (
        (b"", "no image came; choose a file, or drop one on the page"),
        (b"text", "what was sent is no picture that PIL can read"),
        (png(300)[:200], "image file is truncated"),
        (huge_png(), "what was sent has more pixels than are read here"),
    ):
        with pytest.raises((OSError, ValueError), match=said):
            demo("vit").explained({"image": image})


def test_what_is_no_text(demo):
    for fields, said in (
        ({}, "no text came; type a sentence"),
        ({"text": b" \r\n "}, "no text came; type a sentence"),
        ({"text": b"a" * (LONGEST + 1)}, f"the text has {LONGEST + 1:,} characters, and at most {LONGEST:,} are read here"),
        ({"text": b"\xff"}, "what was sent is no UTF-8"),
        ({"text": b"funny " * 70}, "tokens"),
        ({"text": b"funny", "target": b"luck"}, "luck"),
    ):
        with pytest.raises(ValueError, match=said):
            demo("bert").explained(fields)


def test_notes_are_on_the_page_and_not_in_the_terminal(tmp_path):
    softmax = tiny_model(BertForSequenceClassification, vocab_size=60)
    softmax.save_pretrained(tmp_path)
    processor_for("bert").save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = Demo(load(str(tmp_path)), methods=QUICK, steps=2, max_length=None).explained({"text": b"not funny"})
    assert "computes softmax: no weight is below 0" in page.html
