"""The order of rows, the loss, the optimizer's groups, and the recipe in the Trainer's words."""

import pytest
from transformers import TrainingArguments

from hf_tanhmax import TanhMaxBertConfig, TanhMaxBertForSequenceClassification
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.configuration.recipe import read_recipes, task_base
from hf_tanhmax.training.trainer import LengthSampler, RecipeTrainer, training_arguments

LENGTHS = [(7 * row) % 31 + 1 for row in range(101)]


def test_every_row_comes_once_in_an_order_of_seed_and_epoch():
    sampler = LengthSampler(LENGTHS, batch_size=4, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(101))
    assert first == list(sampler) == list(LengthSampler(LENGTHS, batch_size=4, seed=3))
    sampler.set_epoch(1)
    assert first != list(sampler) != list(LengthSampler(LENGTHS, batch_size=4, seed=4))


def test_batches_hold_rows_of_similar_length_and_are_not_sorted_themselves():
    order = list(LengthSampler(LENGTHS, batch_size=4, seed=0))
    batches = [[LENGTHS[row] for row in order[start : start + 4]] for start in range(0, 100, 4)]
    assert max(max(batch) - min(batch) for batch in batches) <= 3
    firsts = [batch[0] for batch in batches]
    assert firsts != sorted(firsts)
    assert firsts != sorted(firsts, reverse=True)


def test_score_biases_have_a_learning_rate_of_their_own_and_no_decay(tmp_path):
    sizes = {"vocab_size": 23, "hidden_size": 10, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 14}
    model = TanhMaxBertForSequenceClassification(TanhMaxBertConfig(**sizes, tanhmax_polarity="learned"))
    trainer = RecipeTrainer(
        model=model,
        args=TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, weight_decay=0.1, learning_rate=1e-3),
        score_bias_learning_rate=0.02,
        sampler=LengthSampler([1], batch_size=1, seed=0),
        training_collator=None,
    )
    optimizer = trainer.create_optimizer()
    assert trainer.create_optimizer() is optimizer
    groups = {id(value): group for group in optimizer.param_groups for value in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(groups) == len(list(model.parameters()))
    for name, value in model.named_parameters():
        found = groups[id(value)]
        learned = name.endswith("tanhmax_score_bias")
        assert found["lr"] == (0.02 if learned else 1e-3)
        assert found["weight_decay"] == (0.1 if name.endswith("weight") and "LayerNorm" not in name else 0.0)


def config(*flags):
    return read_recipes([str(task_base("bert/text_classification")), *flags])[0].config


def test_the_batch_is_that_of_all_processes_and_accumulated_steps(tmp_path):
    chosen = config("--gradient_accumulation_steps", "2", "--num_train_epochs", "3.0")
    found = training_arguments(chosen, tmp_path, rows=100, processes=4)
    assert (found.per_device_train_batch_size, found.max_steps, found.warmup_steps) == (4, 9, 1)
    assert found.report_to == []


@pytest.mark.parametrize(("warmup", "steps"), [("0", 0), ("0.1", 2), ("0.5", 8), ("1", 1), ("3.0", 3)])
def test_warmup_is_a_share_of_the_steps_or_a_number_of_them(warmup, steps, tmp_path):
    found = training_arguments(config("--max_steps", "17", "--warmup_steps", warmup), tmp_path)
    assert found.get_warmup_steps(17) == steps


def test_batches_that_cannot_be_shared_or_filled_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="3 x 1 must divide it, but it is 32"):
        training_arguments(config(), tmp_path, processes=3)
    with pytest.raises(RecipeError, match="batch_size is 32, but there are only 31 rows"):
        training_arguments(config(), tmp_path, rows=31)
