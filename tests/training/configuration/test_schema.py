"""Values: their ranges, what goes together, and the files that are looked at before anything else."""

import dataclasses
import gzip

import pytest
from datasets import load_dataset
from pydantic import ValidationError
from transformers import TrainingArguments

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.results import RENAMED_KEYS
from hf_tanhmax.training.configuration.recipe import read_recipes, read_yaml, task_base
from hf_tanhmax.training.configuration.schema import ATTENTION, BASE, CONFIGS, MANAGEMENT, ONLY_WITH, Config


def recipe(name, *flags):
    return read_recipes([str(task_base("bert/text_classification").with_name(f"{name}.yaml")), *flags])[0]


@pytest.mark.parametrize("task", CONFIGS)
def test_the_bases_hold_every_key_and_nothing_else(task):
    common, own = read_yaml(BASE), read_yaml(task_base(task))
    assert ["task", *common] == list(Config.model_fields)
    assert {*common, *own} == set(CONFIGS[task].model_fields)
    assert {*ATTENTION, *MANAGEMENT} <= set(common)
    assert own["task"] == task


def test_rules_name_keys_that_there_are():
    every = {key for config in CONFIGS.values() for key in config.model_fields}
    assert {key for keys, _, _ in ONLY_WITH for key in keys} <= every


def test_renamed_keys_have_the_names_of_training_arguments():
    assert set(RENAMED_KEYS.values()) <= set(Config.model_fields) & {field.name for field in dataclasses.fields(TrainingArguments)}
    assert not set(RENAMED_KEYS) & set(Config.model_fields)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("tanhmax", "--batch_size 0", "batch_size must be at least 1, but is 0"),
        ("tanhmax", "--learning_rate 0", "learning_rate must be positive and at most 100, but is 0"),
        ("tanhmax", "--polarity 1.5", "polarity must be between 0 and 1, but is 1.5"),
        ("tanhmax", "--num_train_epochs .nan", "num_train_epochs must be at least 0.001, but is nan"),
        ("tanhmax", "--weight_decay .inf", "weight_decay must be at least 0, but is inf"),
        ("tanhmax", "--seed -1", "seed must be at least 0, but is -1"),
        ("tanhmax", "--lora_alpha 0", "lora_alpha must be positive, but is 0"),
        ("tanhmax", "--warmup_steps 2.5", "warmup_steps must be a share of the steps, below 1, or a whole number of steps, but is 2.5"),
        ("tanhmax", "--save_steps 15", "save_steps must be a multiple of logging_steps"),
        ("tanhmax", "--num_heads 5", "num_heads must divide hidden_size, but they are 5 and 64"),
        ("tanhmax", "--synthetic_polar 3", "synthetic_polar must be even and below"),
        ("tanhmax", "--shift centred", "shift must be"),
        ("softmax", "--shift balanced", "shift does something only with attention: tanhmax"),
        ("tanhmax", "--calibrate -1", "calibrate must be at least 1, but is -1"),
        ("tanhmax", "--calibrate true", "calibrate must be a whole number or null, but is True"),
        ("aligned", "--balance 0", "balance must be positive and at most 1, but is 0"),
        ("aligned", "--balance 1.5", "balance must be positive and at most 1, but is 1.5"),
        ("tanhmax", "--balance 0.3", "balance does something only with calibrate"),
        ("softmax", "--calibrate 9", "calibrate does something only with attention: tanhmax"),
        ("aligned", "", "calibrate is for a trained softmax checkpoint: set model_name_or_path, or calibrate to null"),
        ("tanhmax", "--refit true", "refit does something only with calibrate"),
        ("tanhmax", "--transfer_steps 60", "transfer_steps does something only with calibrate"),
        ("aligned", "--model_name_or_path x --transfer_steps -1", "transfer_steps must be at least 0, but is -1"),
        ("aligned", "--model_name_or_path x --refit 3", "refit must be true or false or null, but is 3"),
        (
            "aligned",
            "--model_name_or_path x --polarity learned",
            "calibrate: a learned polarity starts close to softmax, so",
        ),
        ("balanced", "--model_name_or_path x --calibrate 9 --refit false", "calibrate: a balanced shift balances every row by itself, so"),
        ("balanced", "--model_name_or_path x --calibrate 9 --balance .2", "balance does something only with calibrate and no shift"),
        ("annealed", "--model_name_or_path x --calibrate 9 --transfer_steps 9", "refit and transfer_steps fit projections to one polarity"),
        ("annealed", "--polarity learned", "a learned polarity is not annealed"),
        ("softmax", "--polarity 0.5", "polarity does something only with attention: tanhmax"),
        ("annealed", "--attention softmax", "does something only with attention: tanhmax"),
        ("tanhmax", "--polarity_share 0.3", "polarity_share does something only with a polarity_schedule"),
        ("tanhmax", "--score_bias 4", "score_bias does something only with polarity: learned"),
        ("tanhmax", "--model_name_or_path x --num_layers 3", "num_layers does something only with a model from scratch"),
        ("tanhmax", "--dataset imdb --synthetic_documents 10", "synthetic_documents does something only with dataset: synthetic"),
        ("tanhmax", "--dataset_config x", "dataset_config does something only with a dataset from the Hub"),
        ("tanhmax", "--lora_rank 4", "lora_rank adapts a checkpoint: set model_name_or_path, or lora_rank to null"),
        ("tanhmax", "--freeze_layers 1", "freeze_layers is 1, but a model from scratch has no layers that are worth keeping: set it to 0"),
        ("lora", "--model_name_or_path x --freeze_layers 1", "freeze_layers is 1, but LoRA trains adapters alone: set it to 0"),
        ("tanhmax", "--dataset film_reviews --dataset_config x", "dataset_config does something only with a dataset from the Hub"),
        ("learned", "--model_name_or_path x --lora_rank 4", "a learned polarity is a weight of the base model, which LoRA does not train"),
        ("tanhmax", "--lora_dropout 0.1", "lora_dropout does something only with a lora_rank"),
        ("tanhmax", "--hub_private_repo true", "hub_private_repo does something only with push_to_hub"),
        ("tanhmax", "--files_dataset imdb", "files_dataset does something only with a train_file"),
        (
            "tanhmax",
            "--files_dataset a/b/c",
            "files_dataset must be the name of a data set on the Hub, such as stanfordnlp/sst2, but is 'a/b/c'",
        ),
        ("tanhmax", "--test_file x.csv", "test_file needs a train_file beside it"),
        ("tanhmax", "--train_file x.txt", "train_file must end in .csv, .json, .jsonl, .parquet, but is x.txt"),
        ("tanhmax", "--train_file nowhere.csv", "train_file does not exist: nowhere.csv"),
        ("tanhmax", "--compare_with sofmax", "no variant 'sofmax' beside tanhmax.yaml; there are aligned, aligned_lora, annealed, "),
        ("tanhmax", "--compare_with tanhmax", "'tanhmax' is the variant itself"),
        ("tanhmaks", "", "there is no file"),
    ],
)
def test_values_that_cannot_work_are_refused(name, flags, message):
    with pytest.raises(RecipeError, match=message):
        recipe(name, *flags.split())


@pytest.mark.parametrize("task", ["llama/causal_lm", "llama/sft"])
def test_a_llama_has_no_biases_to_align(task):
    with pytest.raises(RecipeError, match=r"a LLaMA has no key biases to align: calibrate it with shift: balanced at a polarity of 0\.2"):
        read_recipes([str(task_base(task).with_name("tanhmax.yaml")), "--model_name_or_path", "x", "--calibrate", "9"])


def test_files_are_looked_at_before_anything_else(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(RecipeError, match="train_file is empty"):
        recipe("tanhmax", "--train_file", str(tmp_path / "empty.csv"))
    (tmp_path / "some.csv").write_text("text,label\na,1\n")
    with pytest.raises(RecipeError, match="give either train_file or dataset, not both"):
        recipe("tanhmax", "--train_file", str(tmp_path / "some.csv"), "--dataset", "imdb")


@pytest.mark.parametrize("text", ["text,label\na,1\n", '\ufeff\n\n"text",label\na,1\n'])
def test_columns_of_a_csv_are_looked_at_too(tmp_path, text):
    path = tmp_path / "some.csv"
    path.write_text(text, encoding="utf-8")
    assert recipe("tanhmax", "--train_file", str(path)).config.train_file == str(path)
    for key in ("text", "label"):
        with pytest.raises(RecipeError, match=rf"the train data has no column 'words' \({key}_column\); it has 'text', 'label'"):
            recipe("tanhmax", "--train_file", str(path), f"--{key}_column", "words")


ROWS = "text,label\na,1\nb,0\n"


@pytest.mark.parametrize(
    ("content", "pair"),
    [
        pytest.param(f"  \n\t\n{ROWS}".encode(), None, id="blank lines"),
        pytest.param(gzip.compress(ROWS.encode()), None, id="compressed"),
        pytest.param(b",text,label\n0,a,1\n1,b,0\n", "Unnamed: 0", id="a column without a name"),
        pytest.param(b"text,text,label\na,c,1\nb,d,0\n", "text.1", id="two of one name"),
        pytest.param(b'"te\nxt",text,label\nc,a,1\nd,b,0\n', "te\nxt", id="a name of two lines"),
        pytest.param(b"x" * 200_000 + b",text,label\nc,a,1\nd,b,0\n", None, id="a long name"),
    ],
)
def test_columns_that_the_reader_finds_in_a_csv_are_found(tmp_path, content, pair):
    path = tmp_path / "some.csv"
    path.write_bytes(content)
    config = recipe("tanhmax", "--train_file", str(path), *(("--text_pair_column", pair) if pair else ())).config
    rows = load_dataset("csv", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"), keep_default_na=False)
    assert {config.text_column, config.label_column, pair or config.text_column} <= set(rows.column_names)


def test_a_csv_whose_quote_stays_open_is_short_to_say_or_left_to_its_reader(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text('text,"label\n' + "word,1\n" * 500, encoding="utf-8")
    with pytest.raises(RecipeError, match="has no column 'label'") as refused:
        recipe("tanhmax", "--train_file", str(path))
    assert len(str(refused.value)) < 500
    path.write_text('text,"label\n' + "word,1\n" * 100_000, encoding="utf-8")
    recipe("tanhmax", "--train_file", str(path))


def test_a_checkpoint_has_defaults_of_its_own():
    scratch, checkpoint = recipe("tanhmax").config, recipe("tanhmax", "--model_name_or_path", "some/model").config
    assert (scratch.resolved_epochs, scratch.resolved_learning_rate) == (6, 1e-3)
    assert (checkpoint.resolved_epochs, checkpoint.resolved_learning_rate) == (1, 5e-5)
    assert recipe("lora", "--model_name_or_path", "some/model").config.resolved_learning_rate == 5e-4


def test_a_configuration_stays_as_it_is():
    config = recipe("tanhmax", "--polarity", "1").config
    with pytest.raises(ValidationError, match="frozen"):
        config.polarity = 0.5
    assert repr(config.identity()["polarity"]) == "1"
    assert not set(MANAGEMENT) & set(config.identity())
