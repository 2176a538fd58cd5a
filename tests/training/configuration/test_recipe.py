"""Recipes: files and flags are strict and override each other; names come from paths; the twin differs in attention alone."""

import json
import re
import subprocess
import sys

import pytest
import yaml

import hf_tanhmax
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.results import RENAMED_KEYS
from hf_tanhmax.training.configuration.recipe import VARIANTS, checked, print_help, read_layers, read_recipes, read_yaml, task_base, task_of
from hf_tanhmax.training.configuration.schema import ATTENTION, CALIBRATION, CONFIGS

TEXT = "bert/text_classification"
BASE = task_base(TEXT)
LORA = {"lora_rank", "lora_alpha"}
MODEL = ["--model_name_or_path", "some/model"]


def recipe(name, *flags):
    return read_recipes([str(BASE.with_name(f"{name}.yaml")), *flags])[0]


@pytest.mark.parametrize("task", CONFIGS)
def test_the_variants_of_every_task_differ_in_attention_and_lora_only(task):
    there = {path.stem for path in task_base(task).parent.glob("*.yaml")} - {"base"}
    assert there == set(VARIANTS)
    for name in there:
        file = task_base(task).with_name(f"{name}.yaml")
        assert set(read_yaml(file)) <= {*ATTENTION, *LORA}
        first = task_base("llama/sft") if task.startswith("llama") and name.startswith("aligned") else BASE  # which has no biases to align
        assert file.read_text() == first.with_name(f"{name}.yaml").read_text()
        made = read_recipes([str(file), *MODEL])[0]
        assert (made.name, made.config.family) == (task.replace("/", "--"), task.split("/")[0])


@pytest.mark.parametrize("name", ["aligned", "balanced"])
def test_adapters_are_the_only_difference_of_a_lora_variant(name):
    whole, adapted = (recipe(variant, *MODEL).config.identity() for variant in (name, f"{name}_lora"))
    assert {key for key in whole if whole[key] != adapted[key]} == {"lora_rank"}


def test_help_names_first_what_keeps_a_trained_checkpoint(capsys):
    print_help(["--help"])
    said = capsys.readouterr().out
    places = [said.index(f"\n  {name} ") for name in VARIANTS]
    assert places == sorted(places)
    assert list(VARIANTS)[:2] == ["aligned", "balanced"]
    assert said.index("/aligned.yaml") < said.index("/tanhmax.yaml")


@pytest.mark.parametrize("name", [*VARIANTS, "base"])
def test_a_variant_is_read_and_named_after_its_path(name):
    assert recipe(name, *MODEL).run_name == f"bert--text_classification--{name}--seed0"
    assert recipe(name, *MODEL).output_dir.as_posix() == f"runs/bert--text_classification--{name}--seed0"


def test_flags_override_the_variant_and_the_variant_the_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: bert/text_classification\nseed: 3\nlearning_rate: 1e-4\nlayers: [0, 1]\n")
    config = read_recipes([str(tmp_path / "mine.yaml"), "--seed", "5", "--bf16", "--text-column=sentence", "--heads", "0,2"])[0].config
    assert (config.seed, config.learning_rate, config.layers, config.heads) == (5, 1e-4, (0, 1), (0, 2))
    assert (config.bf16, config.text_column, config.batch_size) == (True, "sentence", 32)


def test_a_base_beside_the_recipe_is_used(tmp_path):
    (tmp_path / "base.yaml").write_text("task: llama/sft\nseed: 7\n")
    (tmp_path / "mine.yaml").write_text("num_train_epochs: 2\n")
    found = read_recipes([str(tmp_path / "mine.yaml")])[0]
    assert (found.config.seed, found.config.num_train_epochs, found.name) == (7, 2, "llama--sft")


def test_a_mistake_in_the_base_beside_the_recipe_names_that_file(tmp_path):
    (tmp_path / "base.yaml").write_text("task: llama/sft\nsead: 7\n")
    (tmp_path / "mine.yaml").write_text("seed: 2\n")
    with pytest.raises(RecipeError, match=r"base.yaml: unknown key 'sead'; did you mean 'seed'"):
        read_recipes([str(tmp_path / "mine.yaml")])


def test_a_recipe_that_names_no_task_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("num_train_epochs: 2\n")
    with pytest.raises(RecipeError, match=r"mine.yaml names no task; add a line such as `task: bert/text_classification`; there are bert/"):
        read_recipes([str(tmp_path / "mine.yaml")])


def test_the_comparison_changes_attention_and_nothing_else():
    main_run, twin = read_recipes(
        [str(BASE.with_name("annealed.yaml")), "--seed", "3", "--compare_with", "softmax", "--output_dir", "here"]
    )
    assert (twin.variant, twin.config.attention, twin.config.output_dir) == ("softmax", "softmax", "here--softmax")
    different = {key for key in CONFIGS[TEXT].model_fields if getattr(main_run.config, key) != getattr(twin.config, key)}
    assert different == {"attention", "polarity_schedule", "output_dir", "compare_with"}
    assert "output_dir" not in twin.config.identity()


def test_the_comparison_with_softmax_has_nothing_to_calibrate():
    aligned, softmax = read_recipes([str(BASE.with_name("aligned.yaml")), *MODEL, "--compare_with", "softmax"])
    assert (aligned.config.calibrate, softmax.config.calibrate) == (256, None)
    _, aligned = read_recipes([str(BASE.with_name("balanced.yaml")), *MODEL, "--compare_with", "aligned"])
    assert (aligned.config.shift, aligned.config.polarity, aligned.config.calibrate) == (None, 1.0, 256)


def test_a_decoder_is_calibrated_with_a_balanced_shift():
    config = read_recipes([str(task_base("llama/sft").with_name("aligned.yaml")), *MODEL])[0].config
    assert (config.shift, config.polarity, config.calibrate, config.refit) == ("balanced", 0.2, 128, True)


def test_a_recipe_without_calibration_is_the_run_that_it_was():
    assert not set(CALIBRATION) & set(recipe("tanhmax").config.identity())
    assert {"calibrate": 256, "balance": 0.2}.items() <= recipe("aligned", *MODEL).config.identity().items()


def test_the_comparison_keeps_lora_and_takes_it_from_a_variant_that_has_it():
    _, softmax = read_recipes([str(BASE.with_name("lora.yaml")), *MODEL, "--compare_with", "softmax"])
    assert (softmax.config.attention, softmax.config.lora_rank) == ("softmax", 8)
    _, lora = read_recipes([str(BASE.with_name("annealed.yaml")), *MODEL, "--compare_with", "lora"])
    assert lora.config.lora_rank == 8


@pytest.mark.parametrize("task", CONFIGS)
def test_help_shows_every_key(task, capsys):
    print_help([str(task_base(task).with_name("tanhmax.yaml")), "--help"])
    said = capsys.readouterr().out
    assert all(f"\n{key}: " in said for key in CONFIGS[task].model_fields)
    print_help(["--help"])
    assert task in capsys.readouterr().out


# Names and types of keys


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
def test_a_value_of_the_right_type_is_taken(key, value, found, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value}))
    assert getattr(checked(TEXT, *read_layers(TEXT), ("", read_yaml(file))), key) == found


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
        *((old, 1, f"unknown key '{old}', which is called '{new}' now") for old, new in RENAMED_KEYS.items()),
    ],
)
def test_a_wrong_name_or_type_is_refused_in_yaml_and_says_where(key, value, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"task": TEXT, key: value}))
    with pytest.raises(RecipeError, match=rf"mine.yaml: .*{message}"):
        read_recipes([str(file)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch-sise 3", "--batch-sise: unknown key 'batch_sise'; did you mean 'batch_size'"),
        ("--batch_size x", "--batch_size must be a whole number, but is 'x'"),
        ("--batch_size", "--batch_size needs a value, a whole number"),
        ("--seed 1 --seed 2", "--seed is given twice"),
        ("seed 1", "expected --key value, but got 'seed'"),
        *((f"--{old} 1", f"--{old}: unknown key '{old}', which is called '{new}' now") for old, new in RENAMED_KEYS.items()),
        ("--task llama/sft", "--task cannot be changed: it belongs to the YAML file"),
    ],
)
def test_a_wrong_flag_is_refused(flags, message):
    with pytest.raises(RecipeError, match=message):
        read_recipes([str(BASE), *flags.split()])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "mine.yaml: seed is given twice"),
        ("- a\n", "must hold lines of `key: value`"),
        ("a: [\n", "is not YAML"),
        ("task: [bert]\n", "unknown task \\['bert'\\]; there are"),
        ("task: bert/poetry\n", "unknown task 'bert/poetry'; there are bert/text_classification, bert/masked_lm"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        task_of(file)


def test_the_configuration_is_read_without_torch_and_transformers():
    """A mistake in a recipe is said before anything heavy is imported."""
    code = f"""
import json, sys, types
sys.modules["hf_tanhmax"] = package = types.ModuleType("hf_tanhmax")
package.__path__ = {list(hf_tanhmax.__path__)}
import hf_tanhmax.training.configuration.recipe, hf_tanhmax.training.train
print(json.dumps(sorted({{"torch", "transformers", "accelerate", "datasets", "numpy", "peft"}} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", ["", ".", "/", "gone.yaml"])
def test_a_recipe_that_is_no_file(name):
    with pytest.raises(RecipeError, match="there is no file"):
        read_recipes([name])


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [
        ("hidden_size", "99999999999999999996", "at most 2147483648"),
        ("weight_decay", "1e7", "at most 1e+06"),
        ("max_length", "x", "a whole"),
    ],
)
def test_numbers_that_no_machine_takes(flag, value, wanted):
    with pytest.raises(RecipeError, match=re.escape(f"{flag} must be {wanted}")):
        read_recipes([str(BASE.with_name("tanhmax.yaml")), f"--{flag}", value])


def test_text_that_looks_like_a_number_stays_text(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: bert/text_classification\noutput_dir: 1e3\nlearning_rate: 5e-5\n")
    (recipe,) = read_recipes([str(tmp_path / "mine.yaml")])
    assert (recipe.config.output_dir, recipe.config.learning_rate) == ("1e3", 5e-5)


def test_a_variant_of_another_folder_is_none():
    with pytest.raises(RecipeError, match=r"compare_with: there is no variant '\.\./masked_lm/softmax' beside tanhmax\.yaml"):
        read_recipes([str(BASE.with_name("tanhmax.yaml")), "--compare_with", "../masked_lm/softmax"])
