"""One run from recipe to results: check, load, train, evaluate, reload, report."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel, set_seed

from hf_tanhmax.annealing import PolarityCallback

from .checkpoints import RESULTS, ManifestCallback, Start, claim, write_json
from .compare import comparison
from .config import Config
from .data import load_splits, source_fingerprint, tokenized
from .errors import RecipeError
from .health import attention_health
from .metrics import classification_metrics, f1_average
from .model import build_model, checkpoint_config, load_tokenizer
from .recipe import Recipe
from .results import read_results, results_of
from .trainer import LengthSampler, RecipeTrainer, training_arguments

CHECKED_ROWS = 256  # of the test data, for attention health and for the model reloaded from disk
EVALUATION_BATCH = 64


def run(recipes: list[Recipe]) -> None:
    """Run one recipe, or two to compare, and print their results.

    Raises:
        RecipeError: something in the recipe or the data that cannot work.
    """
    for recipe in recipes:
        _check(recipe)
    results = [run_one(recipe) for recipe in recipes]
    if not PartialState().is_main_process:
        return
    print()
    print(comparison(results))
    for result in results:
        print(f"{result['variant']}: {result['attention']}")
    if len(results) == 1 and recipes[0].config.attention == "tanhmax":
        print("add --compare_with softmax to see softmax at the same budget beside it")


def run_one(recipe: Recipe) -> dict[str, Any]:
    """Run one recipe, or find its results where it was run before; all processes return the same.

    Raises:
        RecipeError: as `run`.
    """
    started, config, folder = time.perf_counter(), recipe.config, recipe.output_dir
    start = _claim_together(recipe)
    for sentence in start.said:
        _say(sentence)
    if start.finished:
        return read_results(folder / RESULTS)
    with PartialState().main_process_first():
        splits = load_splits(config)
    set_seed(config.seed)
    checkpoint = checkpoint_config(config)
    tokenizer = load_tokenizer(config, splits)
    model = build_model(config, checkpoint, splits.names, tokenizer)
    rows = {name: getattr(splits, name) for name in ("train", "validation", "test") if getattr(splits, name) is not None}
    data = {name: tokenized(part, tokenizer, max_length=config.max_length) for name, part in rows.items()}
    trainer = _trainer(config, folder, model, data, tokenizer, len(splits.names))
    trainer.train(resume_from_checkpoint=start.checkpoint)
    metrics = _metrics(trainer, data) | {"f1_average": f1_average(len(splits.names))}
    trainer.save_model(str(folder))
    PartialState().wait_for_everyone()
    result: dict[str, Any] | None = None
    if PartialState().is_main_process:
        reloaded = AutoModelForSequenceClassification.from_pretrained(str(folder)).to(model.device)
        last = data.get("test", data["validation"])
        batches = _batches(last.select(range(min(CHECKED_ROWS, len(last)))), tokenizer)
        metrics["reload_difference"] = _check_reload(model, reloaded, batches)
        reloaded.set_attn_implementation("eager")
        health = attention_health(reloaded, batches)
        seconds = time.perf_counter() - started
        result = results_of(recipe, metrics=metrics, health=health, data=splits.fingerprint, seconds=seconds)
        if config.results_dir:
            write_json(Path(config.results_dir) / f"{recipe.run_name}.json", result)
        write_json(folder / RESULTS, result)
        _say(
            f"the model is in {folder}; reloaded from there it gives the same logits (largest difference {metrics['reload_difference']:g})"
        )
    return broadcast_object_list([result])[0]


def _check(recipe: Recipe) -> None:
    """All that can be found wrong before any data is read; the first training arguments also start the process group."""
    config = recipe.config
    training_arguments(config, recipe.output_dir)
    state = PartialState()
    if config.num_processes not in (None, state.num_processes):
        raise RecipeError(
            f"num_processes is {config.num_processes}, but {state.num_processes} was launched (distributed type "
            f"{state.distributed_type.value}); launch with --config_file recipes/accelerate_configs/ddp.yaml, or "
            f"accelerate launch --multi_gpu --num_processes {config.num_processes}, as --cpu alone starts one process"
        )
    training_arguments(config, recipe.output_dir, processes=state.num_processes)
    checkpoint_config(config)


def _claim_together(recipe: Recipe) -> Start:
    """Let one process look at the output folder, and tell the others what it found."""
    found: list[Any] = [None]
    if PartialState().is_main_process:
        identity = {"config": recipe.config.identity(), "data": source_fingerprint(recipe.config)}
        try:
            found = [claim(recipe.output_dir, identity, resume=recipe.config.resume)]
        except RecipeError as error:
            found = [str(error)]
    start = broadcast_object_list(found)[0]
    if isinstance(start, str):
        raise RecipeError(start)
    return start


def _trainer(config: Config, folder: Path, model: PreTrainedModel, data: dict[str, Dataset], tokenizer: Any, classes: int) -> RecipeTrainer:
    arguments = training_arguments(config, folder, rows=len(data["train"]), processes=PartialState().num_processes)
    callbacks: list[Any] = [ManifestCallback()]
    if config.attention == "tanhmax" and config.polarity_schedule is not None:
        annealing = {
            "start": config.polarity_start,
            "end": config.polarity,
            "schedule": config.polarity_schedule,
            "share": config.polarity_share,
        }
        callbacks.append(PolarityCallback(**annealing))  # type: ignore[arg-type]
    return RecipeTrainer(
        score_bias_learning_rate=config.score_bias_learning_rate,
        sampler=LengthSampler([len(ids) for ids in data["train"]["input_ids"]], batch_size=config.batch_size, seed=config.seed),
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=_by_length(data["validation"]),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=classification_metrics(classes),
        callbacks=callbacks,
    )


def _metrics(trainer: RecipeTrainer, data: dict[str, Dataset]) -> dict[str, Any]:
    history = trainer.state.log_history
    losses = [[record["step"], record["loss"]] for record in history if "loss" in record]
    last = [loss for step, loss in losses if step > 0.9 * trainer.state.max_steps] or [loss for _, loss in losses[-1:]]
    found: dict[str, Any] = {
        "train_loss": sum(last) / len(last) if last else None,
        "train_loss_curve": losses,
        "steps": trainer.state.global_step,
    }
    measured = {"validation": _last_evaluation(trainer) or trainer.evaluate()}
    if "test" in data:
        measured["test"] = trainer.evaluate(_by_length(data["test"]))
    for split, values in measured.items():
        found |= {f"{split}_{name}": values[f"eval_{name}"] for name in ("accuracy", "f1", "cross_entropy")}
    return found


def _last_evaluation(trainer: RecipeTrainer) -> dict[str, float] | None:
    """What the Trainer measured on the validation data after the last step, if it did."""
    step = trainer.state.global_step
    return next((record for record in trainer.state.log_history if record["step"] == step and "eval_accuracy" in record), None)


def _by_length(rows: Dataset) -> Dataset:
    """The rows from long to short, so that little is padded; for measurements that do not depend on the order."""
    return rows.select(sorted(range(len(rows)), key=lambda index, ids=rows["input_ids"]: -len(ids[index])))


def _batches(rows: Dataset, tokenizer: Any) -> list[dict[str, Tensor]]:
    collate = DataCollatorWithPadding(tokenizer)
    inputs = [{key: row[key] for key in tokenizer.model_input_names if key in row} for row in rows]
    return [dict(collate(inputs[first : first + EVALUATION_BATCH])) for first in range(0, len(inputs), EVALUATION_BATCH)]


def _check_reload(model: PreTrainedModel, reloaded: PreTrainedModel, batches: list[dict[str, Tensor]]) -> float:
    """The largest difference of the logits of two models over batches, which must be below their rounding."""
    difference = largest = 0.0
    with torch.no_grad():
        for batch in batches:
            inputs = {key: value.to(model.device) for key, value in batch.items()}
            trained, loaded = model.eval()(**inputs).logits, reloaded.eval()(**inputs).logits
            difference = max(difference, float((trained - loaded).abs().max()))
            largest = max(largest, float(trained.abs().max()))
    if not difference <= 1e-6 * max(1.0, largest):
        raise RuntimeError(f"the model reloaded from disk is not the trained one: its logits differ by {difference:g}")
    return difference


def _say(sentence: str) -> None:
    if PartialState().is_main_process:
        print(sentence, file=sys.stderr)
