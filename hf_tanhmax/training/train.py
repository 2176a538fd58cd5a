"""Train a BERT, a ViT or a LLaMA with softmax or TanhMax attention, from one YAML file.

    accelerate launch -m recipes.train recipes/bert/text_classification/tanhmax.yaml --compare_with softmax

This module reads what was asked for, so that a mistake is found before anything heavy is imported; `hf_tanhmax.training.run` does the work.
"""

import os
import sys

from ..errors import Interrupted, RecipeError
from .configuration.recipe import print_help, read_recipes


def main(arguments: list[str]) -> int:
    """Run the recipe; 0 if it went well, 2 if something the user gave cannot work, 130 if it was stopped and can be resumed."""
    try:
        if {"--help", "-h"} & set(arguments):
            print_help(arguments)
            return 0
        recipes = read_recipes(arguments)
        from .run import run

        run(recipes)
    except RecipeError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"stopped: {stop}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
