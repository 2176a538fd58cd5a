"""Every picture on the README, of models that this package recommends.

    python -m recipes.pictures [--model MINILM] [--work runs/pictures] [--out recipes/results/explanations]

`start.png`: what `hf-tanhmax start` draws with a converted MiniLM. `digits.png`: a test image of scikit-learn's digits, read by a ViT that
was trained from scratch with TanhMax; `digits.json` holds its accuracy, and what changing its negative weights does to that. There is no
picture of a model that does not use its signs. Rules chose the inputs before any model had read them.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from hf_tanhmax.ablation import ABLATION, NegativesAblation
from hf_tanhmax.cli.arguments import main as hf_tanhmax
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.interpret import ablate_negatives, explain, plot_image
from hf_tanhmax.interpret.inputs.loading import load
from hf_tanhmax.results import Run, metric_of
from hf_tanhmax.training.configuration.recipe import read_recipes, task_base
from hf_tanhmax.training.run import run_all
from hf_tanhmax.training.tasks import task_for

from .command_line import Parser, exit_codes

OUT = Path(__file__).parent / "results" / "explanations"
TASK = "vit/image_classification"
# From scratch on 1,300 small images: without augmentation, and as long as it takes to learn them.
DIGITS = {
    "augmentation": "false",
    "num_train_epochs": "40",
    "logging_steps": "100",
    "save_steps": "800",
    "health_steps": "800",
    "results_dir": "null",
}
RULE, SHOWN = "the first test image", 256  # pixels a side


@exit_codes()
def main(arguments: list[str]) -> int:
    """Draw all pictures; 2 if one cannot be drawn."""
    chosen = _parsed(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    model = [] if chosen.model is None else ["--model", chosen.model]
    code = hf_tanhmax(["start", "--out", str(chosen.work / "start"), "--picture", str(chosen.out / "start.png"), *model])
    if code:
        return code
    draw_digits(chosen.work / "digits", chosen.out)
    return 0


def draw_digits(work: Path, out: Path, **changes: str) -> None:
    """Train the ViT, measure whether it uses its signs, and draw what speaks for its answer about an image.

    Args:
        work: where the model goes; one that is there already is taken.
        out: where the picture and its numbers go.
        **changes: keys of the recipe.

    Raises:
        RecipeError: its negative weights are not used.
    """
    keys = {**DIGITS, "output_dir": str(work), **changes}
    flags = [word for key, value in keys.items() for word in (f"--{key}", value)]
    (recipe,) = read_recipes([str(task_base(TASK).with_name("tanhmax.yaml")), *flags])
    (run,) = run_all([recipe])
    splits = task_for(recipe.config).splits()
    rows = splits.test or splits.validation
    images, loaded = [image.convert("RGB") for image in rows["image"]], load(str(work))
    ablation = ablate_negatives(loaded.model, images, loaded.processor, labels=rows["label"])
    ablation.save(work / ABLATION)
    if not ablation.matters:
        raise RecipeError(f"no picture of {work}: {ablation.verdict}")
    explanation = explain(loaded.model, images[0], processor=loaded.processor)
    shown = images[0].resize((SHOWN, SHOWN), Image.Resampling.NEAREST)  # eight pixels a side are too few to draw on
    plot_image(replace(explanation, image=shown)).savefig(out / "digits.png", dpi=100)
    (out / "digits.json").write_text(json.dumps(_told(run, ablation), indent=1) + "\n", encoding="utf-8")


def _told(run: Run, ablation: NegativesAblation) -> dict[str, object]:
    """The numbers beside the picture."""
    kept = ("recipe", "variant", "seed", "versions", "hardware", "wall_time_s")
    return {
        **{name: run.get(name) for name in kept},
        "changed": DIGITS,
        "image": RULE,
        "test_accuracy": metric_of(run, "test_accuracy"),
        "ablation": ablation.to_dict(),
    }


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m recipes.pictures", description=__doc__)
    parser.add_argument("--model", metavar="M", help="where MiniLM is, if not where hf-tanhmax start looks for it")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/pictures"), metavar="FOLDER", help="where the models go; default runs/pictures"
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="where the pictures go")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
