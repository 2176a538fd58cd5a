"""Keys: strict names, strict types, ranges, combinations, and the order in which base, variant and flags override each other."""

import dataclasses

import pytest
import yaml

from recipes.config import ATTENTION, BASE, MANAGEMENT, ROOT, TYPES, Config, checked, read_flags, read_yaml
from recipes.errors import RecipeError
from recipes.recipe import Recipe, print_help, read_recipes
from recipes.train import main

VARIANTS = sorted(path.stem for path in BASE.parent.glob("*.yaml") if path.stem != "base")


def recipe(name, *flags):
    return read_recipes([str(BASE.with_name(f"{name}.yaml")), *flags])[0]


def test_the_base_holds_every_key_and_nothing_else():
    assert list(read_yaml(BASE)) == [field.name for field in dataclasses.fields(Config)]
    assert {*ATTENTION, *MANAGEMENT} <= set(TYPES)


def test_there_are_four_variants_that_differ_in_attention_only():
    assert VARIANTS == ["annealed", "learned", "softmax", "tanhmax"]
    for name in VARIANTS:
        assert set(read_yaml(BASE.with_name(f"{name}.yaml"))) <= set(ATTENTION)


@pytest.mark.parametrize("name", [*VARIANTS, "base"])
def test_a_variant_is_read_and_named_after_its_path(name):
    assert recipe(name).run_name == f"bert--text_classification--{name}--seed0"
    assert recipe(name).output_dir.as_posix() == f"runs/bert--text_classification--{name}--seed0"


def test_flags_override_the_variant_and_the_variant_the_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 3\nlearning_rate: 1e-4\nlayers: [0, 1]\n")
    config = read_recipes([str(tmp_path / "mine.yaml"), "--seed", "5", "--bf16", "--text-column=sentence", "--heads", "0,2"])[0].config
    assert (config.seed, config.learning_rate, config.layers, config.heads) == (5, 1e-4, (0, 1), (0, 2))
    assert (config.bf16, config.text_column, config.batch_size) == (True, "sentence", 32)


def test_a_base_beside_the_recipe_is_used(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 7\n")
    (tmp_path / "mine.yaml").write_text("epochs: 2\n")
    found = read_recipes([str(tmp_path / "mine.yaml")])[0]
    assert (found.config.seed, found.config.epochs, found.name) == (7, 2, "custom")


def test_the_comparison_changes_attention_and_nothing_else():
    main_run, twin = read_recipes(
        [str(BASE.with_name("annealed.yaml")), "--seed", "3", "--compare_with", "softmax", "--output_dir", "here"]
    )
    assert (twin.variant, twin.config.attention, twin.config.output_dir) == ("softmax", "softmax", "here--softmax")
    different = {key for key in TYPES if getattr(main_run.config, key) != getattr(twin.config, key)}
    assert different == {"attention", "polarity_schedule", "output_dir", "compare_with"}
    assert not {*ATTENTION} & set(Recipe("", "", twin.config).config.identity()) - set(ATTENTION)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("learning_rate", "5e-5", 5e-5),
        ("learning_rate", 1, 1),
        ("polarity", "learned", "learned"),
        ("polarity", "1e-1", 0.1),
        ("layers", [0], (0,)),
        ("layers", None, None),
    ],
)
def test_a_value_of_the_right_type_is_taken(key, value, found):
    assert checked(key, value, "") == found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learnin_rate", 1.0, "unknown key 'learnin_rate'; did you mean 'learning_rate'"),
        ("zzz", 1, "unknown key 'zzz'; see --help"),
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
        read_yaml(file)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch-sise 3", "--batch-sise: unknown key 'batch_sise'; did you mean 'batch_size'"),
        ("--batch_size x", "--batch_size must be a whole number, but is 'x'"),
        ("--batch_size", "--batch_size needs a value, a whole number"),
        ("--seed 1 --seed 2", "--seed is given twice"),
        ("seed 1", "expected --key value, but got 'seed'"),
    ],
)
def test_a_wrong_flag_is_refused(flags, message):
    with pytest.raises(RecipeError, match=message):
        read_flags(flags.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "mine.yaml: seed is given twice"),
        ("- a\n", "must hold lines of `key: value`"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_yaml(file)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("tanhmax", "--batch_size 0", "batch_size must be at least 1, but is 0"),
        ("tanhmax", "--learning_rate 0", "learning_rate must be positive and at most 100, but is 0"),
        ("tanhmax", "--polarity 1.5", "polarity must be between 0 and 1, but is 1.5"),
        ("tanhmax", "--epochs .nan", "epochs must be at least 0.001, but is nan"),
        ("tanhmax", "--save_steps 15", "save_steps must be a multiple of logging_steps"),
        ("tanhmax", "--num_heads 5", "num_heads must divide hidden_size, but they are 5 and 64"),
        ("tanhmax", "--synthetic_polar 3", "synthetic_polar must be even and below"),
        ("annealed", "--polarity learned", "a learned polarity is not annealed"),
        ("softmax", "--polarity 0.5", "polarity does something only with attention: tanhmax"),
        ("annealed", "--attention softmax", "does something only with attention: tanhmax"),
        ("tanhmax", "--polarity_share 0.3", "polarity_share does something only with a polarity_schedule"),
        ("tanhmax", "--score_bias 4", "score_bias does something only with polarity: learned"),
        ("tanhmax", "--model_name_or_path x --num_layers 3", "num_layers does something only with a model from scratch"),
        ("tanhmax", "--dataset imdb --synthetic_documents 10", "synthetic_documents does something only with dataset: synthetic"),
        ("tanhmax", "--dataset_config x", "dataset_config does something only with a dataset from the Hub"),
        ("tanhmax", "--test_file x.csv", "test_file needs a train_file beside it"),
        ("tanhmax", "--train_file x.txt", "train_file must end in .csv, .json, .jsonl, .parquet, but is x.txt"),
        ("tanhmax", "--train_file nowhere.csv", "train_file does not exist: nowhere.csv"),
        ("tanhmax", "--compare_with sofmax", "there is no variant 'sofmax' beside tanhmax.yaml; there are annealed, learned, softmax"),
        ("tanhmax", "--compare_with tanhmax", "'tanhmax' is the variant itself"),
        ("tanhmaks", "", "there is no file"),
    ],
)
def test_values_that_cannot_work_are_refused(name, flags, message):
    with pytest.raises(RecipeError, match=message):
        recipe(name, *flags.split())


def test_files_are_looked_at_before_anything_else(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(RecipeError, match="train_file is empty"):
        recipe("tanhmax", "--train_file", str(tmp_path / "empty.csv"))
    (tmp_path / "some.csv").write_text("text,label\na,1\n")
    with pytest.raises(RecipeError, match="give either train_file or dataset, not both"):
        recipe("tanhmax", "--train_file", str(tmp_path / "some.csv"), "--dataset", "imdb")


def test_a_checkpoint_has_defaults_of_its_own():
    scratch, checkpoint = recipe("tanhmax").config, recipe("tanhmax", "--model_name_or_path", "some/model").config
    assert (scratch.resolved_epochs, scratch.resolved_learning_rate) == (6, 1e-3)
    assert (checkpoint.resolved_epochs, checkpoint.resolved_learning_rate) == (1, 5e-5)


def test_help_shows_every_key(capsys):
    print_help()
    said = capsys.readouterr().out
    assert all(f"\n{key}: " in said for key in TYPES)
    assert main(["--help"]) == 0


@pytest.mark.parametrize(("arguments", "message"), [([], "name a recipe first"), (["--seed", "1"], "name a recipe first")])
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


def test_the_launcher_configurations_are_yaml():
    for name, processes in (("cpu", 1), ("ddp", 2)):
        assert yaml.safe_load((ROOT / "accelerate_configs" / f"{name}.yaml").read_text())["num_processes"] == processes
