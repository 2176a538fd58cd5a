"""Reading the config of a softmax checkpoint; `test_bad_input.py` has the sentences about one that cannot be."""

import pytest
import transformers
from families import tiny_config

from hf_tanhmax.conversion.softmax_config import config_of_checkpoint, refusals_in_words


def test_fields_that_are_passed_and_arguments_that_are_left(tmp_path):
    tiny_config("bert", upstream=True).save_pretrained(tmp_path)
    config, left = config_of_checkpoint(str(tmp_path), {}, {"num_labels": 5, "dtype": "bfloat16", "device_map": "cpu"})
    assert (type(config), config.num_labels) == (transformers.BertConfig, 5)
    assert left == {"dtype": "bfloat16", "device_map": "cpu"}


def test_a_config_that_is_passed_is_taken(tmp_path):
    config = tiny_config("bert", upstream=True)
    assert config_of_checkpoint("nowhere", {}, {"config": config, "device_map": "cpu"}) == (config, {"device_map": "cpu"})


def test_a_newer_release_is_named():
    with (
        pytest.raises(ValueError, match=r"Transformers 99\.0\.0 wrote it, and .* is installed: upgrade"),
        refusals_in_words("a", {"transformers_version": "99.0.0"}),
    ):
        raise KeyError("rope")
