"""What a user has as rows with labels; what is no row of a model is refused in a sentence."""

import numpy
import pytest
import torch
from families import images, text, tiny_model
from PIL import Image
from saved_models import processor_for

import hf_tanhmax
from hf_tanhmax.interpret.ablation import labelled_rows
from hf_tanhmax.interpret.ablation.labelled_rows import IGNORED, RowEncoder, batches, separated

BERT, VIT = hf_tanhmax.TanhMaxBertForSequenceClassification, hf_tanhmax.TanhMaxViTForImageClassification
MASKED, CAUSAL = hf_tanhmax.TanhMaxBertForMaskedLM, hf_tanhmax.TanhMaxLlamaForCausalLM
TEXT = "not funny at all"


def encoder(cls=BERT, family="bert", seed=0, **changes):
    return RowEncoder(tiny_model(cls, vocab_size=60, **changes), family and processor_for(family), seed)


def test_classes_by_name_and_number():
    made = encoder(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    assert [int(made.row(0, TEXT, label).labels) for label in (1, "1", "good", "bad", numpy.int64(0), " 1")] == [1, 1, 1, 0, 0, 1]
    assert made.row(0, TEXT, 1).inputs["input_ids"].shape == (1, 6)
    pair = made.row(0, (TEXT, "a film"), 1).inputs
    assert pair["token_type_ids"].sum() > 0


def test_a_name_that_is_a_number_is_the_name():
    made = encoder(id2label={0: "1", 1: "0"}, label2id={"1": 0, "0": 1})
    assert int(made.row(0, TEXT, "1").labels) == 0


def test_a_batch_is_taken_apart_and_its_padding_cut_off():
    batch = {"input_ids": text(2, 7), "attention_mask": torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]]), "labels": torch.tensor([1, 0])}
    rows = [encoder(family=None).row(index, *each) for index, each in enumerate(separated([batch], None))]
    assert [int(row.labels) for row in rows] == [1, 0]
    assert torch.equal(rows[1].inputs["input_ids"], batch["input_ids"][1:, 2:])
    assert "labels" not in rows[0].inputs
    tokens = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": batch["input_ids"]}
    made = encoder(MASKED, None)
    assert [made.row(0, *each).labels.shape for each in separated([tokens], None)] == [(1, 7), (1, 5)]


def test_texts_of_language_models():
    row = encoder(CAUSAL, "llama").row(0, TEXT, None)
    assert torch.equal(row.labels, row.inputs["input_ids"])
    made = encoder(MASKED)
    long = " ".join([TEXT] * 4)
    one, again = made.row(3, long, None), encoder(MASKED).row(3, long, None)
    mask_token = processor_for("bert").mask_token_id
    masked = one.labels != IGNORED
    assert torch.equal(one.inputs["input_ids"] == mask_token, masked)
    assert int(masked.sum()) == round(0.15 * 16)
    assert not masked[0, [0, -1]].any()
    whole = torch.where(masked, one.labels, one.inputs["input_ids"])
    assert torch.equal(whole, torch.tensor([processor_for("bert")(long)["input_ids"]]))
    assert torch.equal(one.labels, again.labels)
    assert any(not torch.equal(one.labels, other.labels) for other in (made.row(4, long, None), encoder(MASKED, seed=1).row(3, long, None)))
    assert int((made.row(0, "film", None).labels != IGNORED).sum()) == 1


def test_a_text_is_cut_to_what_the_model_reads():
    assert encoder().row(0, " ".join([TEXT] * 40), 0).inputs["input_ids"].shape == (1, 60)


def test_batches_have_one_shape_and_no_more_rows_than_asked_for(monkeypatch):
    made = encoder(CAUSAL, None)
    rows = [made.row(index, {"input_ids": text(1, length)}, None) for index, length in enumerate((4, 6, 4, 4, 6, 4))]
    found = list(batches(rows, 3, 60))
    assert [[row.index for row in batch] for batch in found] == [[0, 2, 3], [5], [1, 4]]
    monkeypatch.setattr(labelled_rows, "LARGEST_LOGITS", 60 * 8)
    assert [len(batch) for batch in batches(rows, 3, 60)] == [2, 2, 1, 1]
    monkeypatch.setattr(labelled_rows, "LARGEST_LOGITS", 1)
    assert [len(batch) for batch in batches(rows, 3, 60)] == [1] * 6


@pytest.mark.parametrize(
    ("make", "given", "label", "said"),
    [
        (encoder, TEXT, None, "row 7: it has no label, which the accuracy of TanhMaxBertForSequenceClassification needs; give labels="),
        (encoder, TEXT, "great", "row 7: there is no class 'great'; TanhMaxBertForSequenceClassification has LABEL_0, LABEL_1, or their"),
        (encoder, TEXT, 2, "row 7: there is no class 2"),
        (encoder, TEXT, -1, "row 7: there is no class -1"),
        (encoder, TEXT, True, "row 7: there is no class True"),
        (encoder, TEXT, 1.0, "row 7: there is no class 1.0"),
        (encoder, "", 1, "row 7: the text is empty"),
        (encoder, Image.new("RGB", (15, 15)), 1, "row 7: it is an image, but TanhMaxBertForSequenceClassification reads texts"),
        (lambda: encoder(VIT, "vit"), TEXT, 1, "row 7: it is a text, but TanhMaxViTForImageClassification reads images"),
        (lambda: encoder(VIT, "vit"), {"input_ids": text(1, 3)}, 1, "row 7: it is a text, but TanhMaxViTForImageClassification reads"),
        (encoder, {"pixel_values": images(1)}, 1, "row 7: it is an image, but TanhMaxBertForSequenceClassification reads texts"),
        (lambda: encoder(family=None), TEXT, 1, "row 7: a text needs tokenizer="),
        (lambda: encoder(CAUSAL, "llama"), TEXT, 1, "row 7: TanhMaxLlamaForCausalLM predicts the tokens of its own texts; leave labels"),
        (
            lambda: encoder(MASKED, None),
            {"input_ids": text(1, 3)},
            None,
            "row 7: a masked language model needs the tokenizer with its mask",
        ),
        (lambda: encoder(hf_tanhmax.TanhMaxBertModel), TEXT, 1, "TanhMaxBertModel has no head whose quality can be measured here; load a"),
        (lambda: encoder(num_labels=1), TEXT, 1, "TanhMaxBertForSequenceClassification does not choose one of several classes"),
        (lambda: encoder(problem_type="multi_label_classification"), TEXT, 1, "does not choose one of several classes, so it has no acc"),
    ],
)
def test_what_is_no_row_is_refused(make, given, label, said):
    with pytest.raises(ValueError, match=said):
        make().row(7, given, label)


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        ([], None, "rows is empty, so there is nothing to measure; give at least one"),
        ([TEXT], [1, 0], "there are 2 labels for 1 rows; give one for each"),
        ([{"input_ids": text(2, 3), "labels": torch.ones(3)}], None, r"must agree in their first dimension, but have \[2, 3\]"),
        ([{}], None, "must agree in their first dimension, but have none"),
    ],
)
def test_lists_that_are_none(rows, labels, said):
    with pytest.raises(ValueError, match=said):
        separated(rows, labels)


@pytest.mark.parametrize("rows", [TEXT, {"input_ids": text(1, 3)}, iter([TEXT])])
def test_one_row_is_no_list(rows):
    with pytest.raises(TypeError, match="rows must be a list of texts, images or encoded batches"):
        separated(rows, None)
