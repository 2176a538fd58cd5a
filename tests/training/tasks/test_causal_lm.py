"""Packed rows: nothing is lost, nothing is learned across a boundary, and no document sees another, in logits and gradients."""

import pytest
import torch
from datasets import Dataset
from tiny_tokenizers import chat_tokenizer

from hf_tanhmax import TanhMaxLlamaConfig, TanhMaxLlamaForCausalLM
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.tasks.causal_lm import packed
from hf_tanhmax.training.tasks.losses import IGNORED

DOCUMENTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27, 28], [31], [41, 42]]


def test_every_token_is_there_once_in_order_and_rows_are_full():
    rows = packed(DOCUMENTS, length=5, pad_token_id=0)
    assert rows["input_ids"] == [[11, 12, 13, 21, 22], [23, 24, 25, 26, 27], [28, 31, 41, 42, 0]]
    assert rows["position_ids"] == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4], [0, 0, 0, 1, 0]]
    assert rows["labels"][0] == [IGNORED, 12, 13, IGNORED, 22]
    assert rows["labels"][2] == [IGNORED, IGNORED, IGNORED, 42, IGNORED]


def test_rows_that_end_with_a_document_need_no_padding():
    assert packed([[1, 2], [3, 4]], length=2, pad_token_id=0)["input_ids"] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_document_sees_another(attention):
    sizes = {"vocab_size": 53, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = TanhMaxLlamaConfig(**sizes, intermediate_size=13, initializer_range=0.3, attn_implementation=attention)
    model = TanhMaxLlamaForCausalLM(config).eval()
    rows = {name: torch.tensor(column) for name, column in packed([*DOCUMENTS[:2], [51, 52]], length=13, pad_token_id=0).items()}
    inputs = {"input_ids": rows["input_ids"], "position_ids": rows["position_ids"], "use_cache": False}
    together = model(**inputs).logits[0]
    start = 0
    for document in [*DOCUMENTS[:2], [51, 52]]:
        alone = model(torch.tensor([document]), use_cache=False).logits[0]
        torch.testing.assert_close(together[start : start + len(document)], alone)
        start += len(document)
    embedded = model.get_input_embeddings()(rows["input_ids"]).detach().requires_grad_()
    model(inputs_embeds=embedded, position_ids=rows["position_ids"], use_cache=False).logits[0, 3:11].sum().backward()
    touched = embedded.grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [False] * 3 + [True] * 8 + [False] * 2


def test_documents_end_with_the_end_token_and_a_tokenizer_without_one_is_refused(task_of):
    task, tokenizer, rows = task_of("llama/causal_lm", "--max_length", "5"), chat_tokenizer(), Dataset.from_dict({"text": ["12", "1"]})
    made = task.examples(rows, tokenizer, training=True)
    assert tokenizer.decode(made["input_ids"][0]) == "12<|im_end|>1<|im_end|>"
    tokenizer.eos_token = None
    with pytest.raises(RecipeError, match="the tokenizer has no end token, which tells documents apart"):
        task.examples(rows, tokenizer, training=True)
