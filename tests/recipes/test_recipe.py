"""Recipes: base, variant and flags override each other in this order; names come from paths; the twin differs in attention alone."""

import pytest

from recipes.config import ATTENTION, BASE
from recipes.keys import TYPES, read_yaml
from recipes.recipe import print_help, read_recipes

VARIANTS = sorted(path.stem for path in BASE.parent.glob("*.yaml") if path.stem != "base")


def recipe(name, *flags):
    return read_recipes([str(BASE.with_name(f"{name}.yaml")), *flags])[0]


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
    assert "output_dir" not in twin.config.identity()


def test_help_shows_every_key(capsys):
    print_help()
    said = capsys.readouterr().out
    assert all(f"\n{key}: " in said for key in TYPES)
