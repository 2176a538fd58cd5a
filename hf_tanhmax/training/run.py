"""One run from recipe to results: check, load, train, evaluate, reload, report, publish."""

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, set_seed
from transformers.integrations import unset_hf_deepspeed_config

from ..errors import Interrupted, RecipeError
from ..results import Conversion, Run, gather, read_run, renamed, results_of, write_json
from .annealing import PolarityCallback
from .checkpoints import RESULTS, ManifestCallback, Start, alone, claim, space_left, whole_checkpoints
from .compare import comparison
from .configuration.recipe import Recipe
from .configuration.schema import Config
from .conversion.calibration import calibrated_before, calibration_batches
from .conversion.check import StartCallback, start_and_end
from .conversion.prepare import conversion_of, prepare
from .data.rows import Splits, source_fingerprint
from .health import HealthCallback, attention_health, health_curve, softmax_norms
from .launch import InterruptCallback, check_agreement, check_launch, check_switched_on
from .lora import load_trained, save_base, with_adapters
from .model import build_model, checkpoint_config, freeze
from .plots import run_figures
from .progress import header, without_known_notices
from .publish import check_publishing, example_of, publish, write_card
from .tasks import Task, task_for
from .tasks.task import Processor
from .trainer import LengthSampler, RecipeTrainer, training_arguments

TRAINING_ARGUMENTS = "training_args.bin"  # what the Trainer leaves beside a model that it saves
HEALTH_MEASUREMENTS = 10  # in a run, if the recipe does not say how often


def run(recipes: list[Recipe]) -> None:
    """Run one recipe, or two to compare, and print their results.

    Raises:
        RecipeError: something in the recipe or the data that cannot work.
        Interrupted: the user stopped it.
    """
    results = run_all(recipes)
    if not PartialState().is_main_process:
        return
    print()
    print(comparison(results))
    for result in results:
        print(f"{result['variant']}: {result['attention']}")
        conversion = result.get("conversion", {})
        if "trained_loss" in conversion:
            print(f"{result['variant']}: {start_and_end(conversion)}")
        for sentence in conversion.get("warnings", []):
            print(f"{result['variant']}: WARNING: {sentence}")
    if len(results) == 1 and recipes[0].config.attention == "tanhmax":
        print("add --compare_with softmax to see softmax at the same budget beside it")


def run_all(recipes: list[Recipe]) -> list[Run]:
    """Run recipes one after the other, once none of them is found to be wrong; what `run` raises, this raises too."""
    for recipe in recipes:
        _check(recipe)
    with without_known_notices():
        results = [run_one(recipe, place=(number, len(recipes))) for number, recipe in enumerate(recipes, 1)]
    if PartialState().is_main_process:
        for recipe, result in zip(recipes, results, strict=True):
            _publish(recipe, result)
    return results


def run_one(recipe: Recipe, *, place: tuple[int, int] = (1, 1)) -> Run:
    """Run one recipe, or find its results where it was run before; all processes return the same.

    Args:
        recipe: what to run.
        place: which run of how many it is, as its header says.

    Raises:
        RecipeError, Interrupted: as `run`.
    """
    with ExitStack() as held:
        return _run_claimed(recipe, _claim_together(recipe, held), place)


def _run_claimed(recipe: Recipe, start: Start, place: tuple[int, int]) -> Run:
    started, config, folder, task = time.perf_counter(), recipe.config, recipe.output_dir, task_for(recipe.config)
    for sentence in start.said:
        _say(sentence)
    if start.finished:
        return _finished(recipe)
    with PartialState().main_process_first():
        splits = task.splits()
    set_seed(config.seed)
    checkpoint = checkpoint_config(task)
    processor = task.processor(splits)
    model = build_model(task, checkpoint, splits, processor)
    use_cache = getattr(model.config, "use_cache", None)
    data = {name: task.examples(rows, processor, training=name == "train") for name, rows in splits.present().items()}
    batches = _batches(task, data["validation"], processor)
    baseline = softmax_norms(model, batches, **task.forward)
    converted = Conversion()
    if start.checkpoint is None:
        inputs = calibration_batches(task, data["train"], processor) if config.calibrate else []
        converted = prepare(model, folder, task, checkpoint, inputs, batches)
    elif config.calibrate:
        model = calibrated_before(start.checkpoint, folder, task)
    freeze(model, config.freeze_layers)
    if config.lora_rank:
        if PartialState().is_main_process and not (config.calibrate and start.checkpoint):
            save_base(model, config, folder)
        PartialState().wait_for_everyone()
        model = with_adapters(model, task, folder)
    trainer = _trainer(task, folder, model, data, processor, splits)
    every = config.health_steps or max(1, trainer.args.max_steps // HEALTH_MEASUREMENTS)
    trainer.add_callback(StartCallback(converted, trainer.log))
    trainer.add_callback(HealthCallback(batches, every=every, log=trainer.log, baseline=baseline, **task.forward))
    _say(header(recipe, place, model, splits, trainer.args))
    _train(trainer, recipe, start.checkpoint)
    metrics, outcomes = _metrics(trainer, task, data)
    conversion = conversion_of(trainer.state.log_history, trainer.model_wrapped, task, batches)
    logits = _logits(trainer.model_wrapped, batches, task.forward)
    if use_cache is not None:
        # The Trainer switches it off, which is no property of the trained model.
        cast(PreTrainedModel, trainer.model).config.use_cache = use_cache
    with space_left(folder):
        trainer.save_model(str(folder))
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        (folder / TRAINING_ARGUMENTS).unlink(missing_ok=True)  # pickled, of no use to a model; recipe.json says all of it
    unset_hf_deepspeed_config()  # under ZeRO-3 Transformers shares out what it loads, for which all processes would have to load it
    result: Run | None = None
    if PartialState().is_main_process:
        reloaded = load_trained(folder, task).to(trainer.args.device)
        found = _logits(reloaded, batches, task.forward)
        metrics["reload_difference"] = _difference(logits, found, rounding=1e-6, what="reloaded from disk")
        measured = {
            "model": _described(reloaded, trainer, config),
            "metrics": metrics,
            "main_metric": task.main_metric,
            "higher_is_better": task.higher_is_better,
            "reported": list(task.reported),
            "attention_health": attention_health(reloaded, batches, baseline=baseline, **task.forward),
            **({"conversion": conversion} if conversion else {}),
            "polarity_curve": _curve(trainer, "polarity"),
            "health_curve": health_curve(trainer.state.log_history),
            "outcomes": {"test": " ".join(f"{value:.6g}" for value in outcomes)},
        }
        if not config.lora_rank:
            measured |= example_of(reloaded, task, processor)
        else:
            found = _logits(reloaded.merge_and_unload(), batches, task.forward)
            metrics["merge_difference"] = _difference(logits, found, rounding=1e-3, what="merged with its adapter")
        result = _written(recipe, measured, splits, seconds=time.perf_counter() - started)
    return broadcast_object_list([result])[0]


def _written(recipe: Recipe, measured: dict[str, Any], splits: Splits, *, seconds: float) -> Run:
    """The results of a run, in its folder with figures and a card, and among those of other runs."""
    config, folder = recipe.config, recipe.output_dir
    resolved = {"num_train_epochs": config.resolved_epochs, "learning_rate": config.resolved_learning_rate}
    kept = renamed(config.identity()) | resolved
    result = results_of(recipe.name, recipe.variant, kept, measured, data=splits.fingerprint, seconds=seconds)
    write_json(folder / RESULTS, result)
    run_figures(result, folder / "figures")
    difference = f"largest difference {measured['metrics']['reload_difference']:g}"
    _say(f"the model is in {folder}; reloaded from there it gives the same logits ({difference})")
    _report(recipe, result)
    return result


def _check(recipe: Recipe) -> None:
    """All that can be found wrong before any data is read; the first training arguments also start the process group."""
    config = recipe.config
    check_launch()
    training_arguments(config, recipe.output_dir)
    state = PartialState()
    check_switched_on(state)
    check_agreement(config.identity())
    if config.num_processes not in (None, state.num_processes):
        raise RecipeError(
            f"num_processes is {config.num_processes}, but {state.num_processes} was launched (distributed type "
            f"{state.distributed_type.value}); launch with --config_file recipes/accelerate_configs/ddp.yaml, or "
            f"accelerate launch --multi_gpu --num_processes {config.num_processes}, as --cpu alone starts one process"
        )
    training_arguments(config, recipe.output_dir, processes=state.num_processes)
    task = task_for(config)
    task.check()
    checkpoint_config(task)
    if config.push_to_hub:
        check_publishing(config.push_to_hub)


def _claim_together(recipe: Recipe, held: ExitStack) -> Start:
    """Let one process look at the output folder and keep it until `held` is closed, and tell the others what it found."""
    found: list[Any] = [None]
    if PartialState().is_main_process:
        identity = {"config": recipe.config.identity(), "data": source_fingerprint(recipe.config)}
        try:
            held.enter_context(alone(recipe.output_dir))
            found = [claim(recipe.output_dir, identity, resume=recipe.config.resume)]
        except RecipeError as error:
            found = [str(error)]
    start = broadcast_object_list(found)[0]
    if isinstance(start, str):
        raise RecipeError(start)
    return start


def _finished(recipe: Recipe) -> Run:
    result = read_run(recipe.output_dir / RESULTS)
    if PartialState().is_main_process:
        _report(recipe, result)
    return result


def _report(recipe: Recipe, result: Run) -> None:
    """Put the result among the others, and write the card."""
    config = recipe.config
    gathered = gather(Path(config.results_dir), result) if config.results_dir else None
    write_card(recipe.output_dir, result, gathered, repo_id=config.push_to_hub)


def _publish(recipe: Recipe, result: Run) -> None:
    """Write the card again, which tells of the runs that came later too, and publish if that was asked for."""
    config, folder = recipe.config, recipe.output_dir
    _report(recipe, result)
    if config.push_to_hub:
        _say(f"published: {publish(folder, config.push_to_hub, private=config.hub_private_repo)}")


def _trainer(
    task: Task, folder: Path, model: PreTrainedModel, data: dict[str, Dataset], processor: Processor, splits: Splits
) -> RecipeTrainer:
    config = task.config
    lengths = task.lengths(data["train"])
    arguments = training_arguments(
        config, folder, rows=len(data["train"]), processes=PartialState().num_processes, all_columns=task.column_names_kept
    )
    callbacks: list[TrainerCallback] = [ManifestCallback()]
    if config.attention == "tanhmax" and config.polarity != "learned" and config.polarity_schedule is not None:
        way = {"start": config.polarity_start, "end": config.polarity, "share": config.polarity_share}
        callbacks.append(PolarityCallback(schedule=config.polarity_schedule, **way))
    return RecipeTrainer(
        score_bias_learning_rate=config.score_bias_learning_rate,
        sampler=LengthSampler(lengths, batch_size=config.batch_size, seed=config.seed),
        training_collator=task.collator(processor, training=True),
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=_by_length(task, data["validation"])[0],
        processing_class=processor,
        data_collator=task.collator(processor, training=False),
        compute_loss_func=task.loss(),
        compute_metrics=task.metrics(splits),
        preprocess_logits_for_metrics=task.reduce,
        callbacks=callbacks,
    )


def _train(trainer: RecipeTrainer, recipe: Recipe, checkpoint: str | None) -> None:
    """Train to the end.

    Raises:
        Interrupted: a signal came; a checkpoint is saved.
        RecipeError: the disk is full; the last whole checkpoint still is whole.
    """
    interrupt = InterruptCallback()
    trainer.add_callback(interrupt)
    try:
        with space_left(recipe.output_dir):
            trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        interrupt.on_train_end()
    if interrupt.stopped is not None and interrupt.stopped < trainer.state.max_steps:
        step, saved = f"step {interrupt.stopped} of {trainer.state.max_steps}", whole_checkpoints(recipe.output_dir)[-1]
        raise Interrupted(f"after {step}, saved in {saved}; add --resume to the same command to go on")


def _metrics(trainer: RecipeTrainer, task: Task, data: dict[str, Dataset]) -> tuple[dict[str, Any], list[float]]:
    """The numbers of a trained model, and the outcome of every test row in the order of the rows."""
    losses = _curve(trainer, "loss")
    last = [loss for step, loss in losses if step > 0.9 * trainer.state.max_steps] or [loss for _, loss in losses[-1:]]
    found: dict[str, Any] = {
        "train_loss": sum(last) / len(last) if last else None,
        "train_loss_curve": losses,
        "validation_curve": _curve(trainer, f"eval_{task.main_metric}"),
        "steps": trainer.state.global_step,
    }
    validation = _last_evaluation(trainer, task) or trainer.evaluate()
    found |= {f"validation_{name}": validation[f"eval_{name}"] for name in task.reported}
    if "test" not in data:
        return found, []
    rows, order = _by_length(task, data["test"])
    predicted = trainer.predict(rows, metric_key_prefix="test")
    found |= {f"test_{name}": (predicted.metrics or {})[f"test_{name}"] for name in task.reported}
    outcomes = dict(zip(order, task.outcomes(predicted), strict=True))
    return found, [outcomes[row] for row in range(len(outcomes))]


def _curve(trainer: RecipeTrainer, name: str) -> list[list[float]]:
    """A number by step; the polarity only where the loss of its step stands beside it."""
    beside = "loss" if name == "polarity" else name
    return [[record["step"], record[name]] for record in trainer.state.log_history if name in record and beside in record]


def _last_evaluation(trainer: RecipeTrainer, task: Task) -> dict[str, float] | None:
    """What the Trainer measured on the validation data after the last step, if it did."""
    step, name = trainer.state.global_step, f"eval_{task.main_metric}"
    return next((record for record in trainer.state.log_history if record["step"] == step and name in record), None)


def _by_length(task: Task, rows: Dataset) -> tuple[Dataset, list[int]]:
    """The rows from long to short, so that little is padded, and where each was; for measurements that do not depend on the order."""
    lengths = task.lengths(rows)
    order = sorted(range(len(rows)), key=lambda index: -lengths[index])
    return rows.select(order), order


def _batches(task: Task, rows: Dataset, processor: Processor) -> list[dict[str, Tensor]]:
    """The first rows for evaluation, in small batches: for attention health, and to compare a reloaded model."""
    collate = task.collator(processor, training=False)
    size = min(task.config.batch_size, 32)
    chosen = [rows[index] for index in range(min(task.config.health_rows, len(rows)))]
    return [dict(collate(chosen[first : first + size])) for first in range(0, len(chosen), size)]


def _logits(model: nn.Module, batches: list[dict[str, Tensor]], options: dict[str, bool]) -> list[Tensor]:
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        inputs = [{key: value.to(device) for key, value in batch.items() if key != "labels"} for batch in batches]
        return [model(**batch, **options).logits.cpu() for batch in inputs]


def _difference(trained: list[Tensor], loaded: list[Tensor], *, rounding: float, what: str) -> float:
    """The largest difference between the logits of two models, which must be below their rounding."""
    difference = max(float((one - other).abs().max()) for one, other in zip(trained, loaded, strict=True))
    largest = max(float(one.abs().max()) for one in trained)
    if not difference <= rounding * max(1.0, largest):
        raise RuntimeError(f"the model {what} is not the trained one: its logits differ by {difference:g}")
    return difference


def _described(model: Any, trainer: RecipeTrainer, config: Config) -> dict[str, Any]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = [value for value in cast(PreTrainedModel, trainer.model).parameters() if value.requires_grad]
    trained = [int(getattr(value, "ds_numel", value.numel())) for value in parameters]  # on all processes of ZeRO-3 together
    name = config.model_name_or_path
    return {
        "class": type(inner).__name__,
        "base_model": "/".join(Path(name).parts[-2:]) if name else None,
        "base_is_folder": name is not None and Path(name).is_dir(),
        "parameters": sum(value.numel() for value in inner.parameters()),
        "trained_parameters": sum(trained),
    }


def _say(sentence: str) -> None:
    if PartialState().is_main_process:
        print(sentence, file=sys.stderr)
