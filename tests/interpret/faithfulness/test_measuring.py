"""What of a measurement is decided before a model runs: parts of the texts, measures that inputs allow, methods that are computed."""

import torch

from hf_tanhmax.choices import CONTROL, METHODS
from hf_tanhmax.interpret.faithfulness.measuring import TEXTS_PER_CHUNK, available_measures, chunks, computed
from hf_tanhmax.interpret.faithfulness.metrics import MEASURES


def test_every_text_is_in_one_part_and_short_ones_come_first():
    texts = ["word " * (1 + 7 * index % 40) for index in range(2 * TEXTS_PER_CHUNK + 3)]
    parts = chunks(texts)
    assert [len(part) for part in parts] == [TEXTS_PER_CHUNK, TEXTS_PER_CHUNK, 3]
    order = [index for part in parts for index in part]
    assert sorted(order) == [*range(len(texts))]
    assert [len(texts[index]) for index in order] == sorted(len(text) for text in texts)


def test_nothing_is_deleted_from_an_image():
    image = {"pixel_values": torch.zeros(1, 3, 4, 4)}
    assert available_measures(["a text"]) == (*MEASURES,)
    left_out = {*MEASURES} - {*available_measures([image])}
    assert left_out == {"deletion_tau", "deletion_abs_tau"}


def test_what_is_drawn_at_random_is_not_computed():
    assert computed(("weights", CONTROL, "weights", "gradient")) == ("weights", "gradient")
    assert computed((CONTROL,)) == METHODS[:1]
