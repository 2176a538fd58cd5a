"""Recipes: base, variant and flags override each other in this order; names come from paths; the twin differs in attention alone."""

import pytest

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.configuration.config import ATTENTION
from hf_tanhmax.training.configuration.keys import TYPES, read_yaml
from hf_tanhmax.training.configuration.recipe import print_help, read_recipes, task_base
from hf_tanhmax.training.configuration.task_configs import CONFIGS

TEXT = "bert/text_classification"
BASE = task_base(TEXT)
LORA = {"lora_rank", "lora_alpha"}
VARIANTS = ["annealed", "learned", "lora", "softmax", "tanhmax"]
MODEL = ["--model_name_or_path", "some/model"]


def recipe(name, *flags):
    return read_recipes([str(BASE.with_name(f"{name}.yaml")), *flags])[0]


@pytest.mark.parametrize("task", CONFIGS)
def test_every_task_has_five_variants_that_differ_in_attention_and_lora_only(task):
    assert sorted(path.stem for path in task_base(task).parent.glob("*.yaml")) == sorted([*VARIANTS, "base"])
    for name in VARIANTS:
        file = task_base(task).with_name(f"{name}.yaml")
        assert set(read_yaml(file, task)) <= {*ATTENTION, *LORA}
        assert file.read_text() == BASE.with_name(f"{name}.yaml").read_text()
        made = read_recipes([str(file), *MODEL])[0]
        assert (made.name, made.config.family) == (task.replace("/", "--"), task.split("/")[0])


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
    (tmp_path / "mine.yaml").write_text("epochs: 2\n")
    found = read_recipes([str(tmp_path / "mine.yaml")])[0]
    assert (found.config.seed, found.config.epochs, found.name) == (7, 2, "llama--sft")


def test_a_recipe_that_names_no_task_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("epochs: 2\n")
    with pytest.raises(RecipeError, match=r"mine.yaml names no task; add a line such as `task: bert/text_classification`; there are bert/"):
        read_recipes([str(tmp_path / "mine.yaml")])


def test_the_comparison_changes_attention_and_nothing_else():
    main_run, twin = read_recipes(
        [str(BASE.with_name("annealed.yaml")), "--seed", "3", "--compare_with", "softmax", "--output_dir", "here"]
    )
    assert (twin.variant, twin.config.attention, twin.config.output_dir) == ("softmax", "softmax", "here--softmax")
    different = {key for key in TYPES[TEXT] if getattr(main_run.config, key) != getattr(twin.config, key)}
    assert different == {"attention", "polarity_schedule", "output_dir", "compare_with"}
    assert "output_dir" not in twin.config.identity()


def test_the_comparison_keeps_lora_and_takes_it_from_a_variant_that_has_it():
    _, softmax = read_recipes([str(BASE.with_name("lora.yaml")), *MODEL, "--compare_with", "softmax"])
    assert (softmax.config.attention, softmax.config.lora_rank) == ("softmax", 8)
    _, lora = read_recipes([str(BASE.with_name("annealed.yaml")), *MODEL, "--compare_with", "lora"])
    assert lora.config.lora_rank == 8


@pytest.mark.parametrize("task", CONFIGS)
def test_help_shows_every_key(task, capsys):
    print_help([str(task_base(task).with_name("tanhmax.yaml")), "--help"])
    said = capsys.readouterr().out
    assert all(f"\n{key}: " in said for key in TYPES[task])
    print_help(["--help"])
    assert task in capsys.readouterr().out
