"""Measure a trained model again, on its own data or on other rows.

python -m hf_tanhmax.training.evaluate FOLDER [--test_file FILE] [--batch_size N] [--key value ...]
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import RecipeError
from .checkpoints import IDENTITY, read_identity
from .configuration.recipe import Values, checked, read_flags, read_layers
from .configuration.schema import Config

USAGE = """\
usage: python -m hf_tanhmax.training.evaluate FOLDER [--key value ...]

FOLDER is the output_dir of a finished run. Prints the metrics of its task on the test rows (the validation rows where there are none) as
JSON. The keys are those of the recipe; --train_file, --test_file or --dataset choose other rows, whose labels must be those of the model.

example:
  python -m hf_tanhmax.training.evaluate runs/bert--text_classification--tanhmax--seed0 --batch_size 64
"""


def main(arguments: list[str]) -> int:
    """Print the metrics; 2 if something the user gave cannot work."""
    if not arguments or {"--help", "-h"} & set(arguments):
        sys.stdout.write(USAGE)
        return 0 if arguments else 2
    try:
        folder = Path(arguments[0])
        print(json.dumps(evaluate(folder, read_config(folder, arguments[1:])), indent=2))
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read_config(folder: Path, flags: list[str]) -> Config:
    """The recipe of a run's folder, with other keys where flags give them.

    Raises:
        RecipeError: not the folder of a run, or flags that cannot work.
    """
    try:
        values = read_identity(folder)["config"]
        task = str(values["task"])
    except (OSError, ValueError, KeyError):
        raise RecipeError(f"{folder} is not the folder of a run: it has no readable {IDENTITY}") from None
    trained: Values = {"model_name_or_path": str(folder), "lora_rank": None}
    return checked(task, *read_layers(task), (f"{folder / IDENTITY}: ", values), ("--", read_flags(flags, task)), ("", trained))


def evaluate(folder: Path, config: Config) -> dict[str, object]:
    """The metrics of a model in a run's folder, and on how many rows of which split.

    Raises:
        RecipeError: rows that cannot be read, or labels that the model does not have.
    """
    from .lora import load_trained
    from .tasks import task_for
    from .trainer import LengthSampler, RecipeTrainer, training_arguments

    task = task_for(config)
    splits = task.splits()
    model = load_trained(folder, task)
    known = list(getattr(model.config, "id2label", {}).values()) if splits.names else []
    if splits.names != known and splits.names:
        raise RecipeError(f"the rows have the labels {', '.join(splits.names[:20])}, but the model in {folder} has {', '.join(known[:20])}")
    processor = task.processor(splits)
    split = "validation" if splits.test is None else "test"
    rows = task.examples(splits.present()[split], processor, training=False)
    with TemporaryDirectory() as scratch:
        trainer = RecipeTrainer(
            score_bias_learning_rate=1.0,
            sampler=LengthSampler([1], batch_size=1, seed=0),
            training_collator=None,
            model=model,
            args=training_arguments(config, Path(scratch), all_columns=task.column_names_kept),
            eval_dataset=rows,
            data_collator=task.collator(processor, training=False),
            compute_loss_func=task.loss(),
            compute_metrics=task.metrics(splits),
            preprocess_logits_for_metrics=task.reduce,
        )
        found = trainer.predict(rows, metric_key_prefix=split).metrics or {}
    return {"split": split, "rows": len(rows), **{name: found[f"{split}_{name}"] for name in task.reported}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
