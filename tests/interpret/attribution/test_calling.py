"""One row of logits for each input, whatever the model returns."""

import pytest
import torch
from families import text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret.attribution.calling import rows_of_logits, without_cache


@pytest.mark.parametrize("cls", [hf_tanhmax.TanhMaxLlamaForCausalLM, hf_tanhmax.TanhMaxBertForMaskedLM])
@pytest.mark.parametrize("positions", [(5, 5, 5), (0, 3, 5), (5, 5, 2)])
def test_rows_at_positions(cls, positions):
    model, ids = tiny_model(cls), text(3, 6)
    with torch.no_grad():
        want = model(input_ids=ids).logits[torch.arange(3), list(positions)]
        torch.testing.assert_close(rows_of_logits(model, {"input_ids": ids}, positions), want)


def test_only_the_last_row_is_computed_where_it_is_all_that_is_read():
    model, sizes = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM), []
    model.lm_head.register_forward_hook(lambda module, arguments, output: sizes.append(output.shape[1]))
    with torch.no_grad():
        rows_of_logits(model, {"input_ids": text(2, 6)}, [5, 5])
        rows_of_logits(model, {"input_ids": text(2, 6)}, [5, 4])
    assert sizes == [1, 6]


def test_a_classifier_has_one_row():
    model, ids = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), text(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(rows_of_logits(model, {"input_ids": ids}, [None, None]), model(input_ids=ids).logits)


def test_no_cache_is_filled_where_there_could_be_one():
    assert without_cache(tiny_model(hf_tanhmax.TanhMaxLlamaModel)) == {"use_cache": False}
    assert without_cache(tiny_model(hf_tanhmax.TanhMaxViTModel)) == {}
