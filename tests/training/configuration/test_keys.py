"""Names and types of keys: strict in files and on the command line, with a sentence that helps."""

import pytest
import yaml

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.configuration.keys import checked, read_flags, read_yaml, task_of

TEXT = "bert/text_classification"


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("learning_rate", "5e-5", 5e-5),
        ("learning_rate", 1, 1),
        ("polarity", "learned", "learned"),
        ("polarity", "1e-1", 0.1),
        ("layers", [0], (0,)),
        ("layers", None, None),
        ("lora_targets", ["query"], ("query",)),
    ],
)
def test_a_value_of_the_right_type_is_taken(key, value, found):
    assert checked(key, value, TEXT, "") == found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learnin_rate", 1.0, "unknown key 'learnin_rate'; did you mean 'learning_rate'"),
        ("zzz", 1, "unknown key 'zzz'; see --help"),
        ("image_column", "x", "unknown key 'image_column', which belongs to vit/image_classification and not to bert/text_classification"),
        ("lora_targets", [1], "lora_targets must be a list of words or null, but is"),
        ("batch_size", "many", "batch_size must be a whole number, but is 'many'"),
        ("batch_size", 1.5, "batch_size must be a whole number, but is 1.5"),
        ("batch_size", True, "batch_size must be a whole number, but is True"),
        ("learning_rate", "fast", "learning_rate must be a number or null, but is 'fast'"),
        ("bf16", "maybe", "bf16 must be true or false, but is 'maybe'"),
        ("attention", "tanh", 'attention must be "tanhmax" or "softmax", but is \'tanh\''),
        ("polarity", "lerned", "polarity must be a number or \"learned\", but is 'lerned'"),
        ("polarity_schedule", "steps", '"linear" or "cosine" or "geometric" or null, but is'),
        ("layers", 3, "layers must be a list of whole numbers or null, but is 3"),
        ("layers", [0, "1"], r"layers must be a list of whole numbers or null, but is \[0, '1'\]"),
        ("text_column", None, "text_column must be text, but is None"),
    ],
)
def test_a_wrong_name_or_type_is_refused_in_yaml_and_says_where(key, value, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value}))
    with pytest.raises(RecipeError, match=rf"mine.yaml: .*{message}"):
        read_yaml(file, TEXT)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch-sise 3", "--batch-sise: unknown key 'batch_sise'; did you mean 'batch_size'"),
        ("--batch_size x", "--batch_size must be a whole number, but is 'x'"),
        ("--batch_size", "--batch_size needs a value, a whole number"),
        ("--seed 1 --seed 2", "--seed is given twice"),
        ("seed 1", "expected --key value, but got 'seed'"),
        ("--task llama/sft", "--task cannot be changed: it belongs to the YAML file"),
    ],
)
def test_a_wrong_flag_is_refused(flags, message):
    with pytest.raises(RecipeError, match=message):
        read_flags(flags.split(), TEXT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "mine.yaml: seed is given twice"),
        ("- a\n", "must hold lines of `key: value`"),
        ("a: [\n", "is not YAML"),
        ("task: bert/poetry\n", "unknown task 'bert/poetry'; there are bert/text_classification, bert/masked_lm"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        task_of(file)
