"""How fast exported models run, TanhMax and softmax side by side, and what int8 weights cost in accuracy.

python -m recipes.benchmarks.export speed [--families bert vit llama] [--engines onnxruntime openvino executorch aoti] [--out FILE]
python -m recipes.benchmarks.export int8 --models tanhmax=FOLDER softmax=FOLDER --tokenizer FOLDER --data test.csv [--out FILE]

Weights of the first are random, as speed does not hang on them: 2 layers of 12 heads of 32, float32. Each round runs every model of an
engine once, in an order that alternates, on one thread where the engine can be told so; times are processor time, whatever else the machine
does, and a ratio is of two times of the same round. Every export is compared with its live model first.
"""

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel

import hf_tanhmax
from hf_tanhmax.checkpoint import read_checkpoint
from hf_tanhmax.export.checking import differences, stages_of
from hf_tanhmax.export.exporting import exported_model, quantize, quietly
from hf_tanhmax.export.formats import FORMATS, node_counts, versions_of
from hf_tanhmax.export.inputs import random_inputs
from hf_tanhmax.provenance import git_commit
from hf_tanhmax.results import table

from ..command_line import Parser
from .measure import environment, percentiles, processor_time

if TYPE_CHECKING:
    from transformers.exporters import ExportedModel

SIZE: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 1536}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", {"vocab_size": 30522}),
    "vit": ("ViTForImageClassification", {"image_size": 224, "patch_size": 16}),
    "llama": ("LlamaForCausalLM", {"vocab_size": 4096, "num_key_value_heads": 4}),
}
ATTENTIONS: dict[str, dict[str, Any] | None] = {
    "softmax": None,
    "TanhMax": {},
    "balanced": {"tanhmax_shift": "balanced"},
}
# Of each engine the format, and what of the export is another than the default.
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "onnxruntime": ("onnx", {}),
    "onnxruntime, opset 20": ("onnx", {"opset": 20}),
    "openvino": ("openvino", {}),
    "executorch": ("executorch", {}),
    "aoti": ("torch", {}),
}
CALL = (4, 128)  # batch and length
PLANNED_CALL = (4, 48)  # of a decoder in ExecuTorch, for which Transformers' exporter plans the memory of 64 tokens


def model_of(family: str, attention: str) -> PreTrainedModel:
    """A model of one size with random weights."""
    name, more = FAMILIES[family]
    settings = ATTENTIONS[attention]
    module, name = (transformers, name) if settings is None else (hf_tanhmax, f"TanhMax{name}")
    model_class: Any = getattr(module, name)
    torch.manual_seed(0)
    return model_class(model_class.config_class(**SIZE, **more, **(settings or {}))).eval()


class Made(NamedTuple):
    """An exported model by stage, what is known of it, and its owner, which keeps the memory that a method of ExecuTorch reads."""

    runners: dict[str, Callable[..., Any]]
    graphs: dict[str, dict[str, int]]
    largest_difference: float
    owner: "ExportedModel"


def exported(model: PreTrainedModel, engine: str) -> Made:
    """An exported model, compared with the live one as the engine runs it."""
    name, options = ENGINES[engine]
    found = exported_model(model, name, **options)
    graphs = {part: node_counts(component.program, name) for part, component in found.components.items()}
    found.to(**_on_one_thread(name))
    if engine == "aoti":
        runners: dict[str, Any] = found.runners
        runners.update({part: _compiled(component) for part, component in found.components.items()})
    worst = max(each["difference"] for each in differences(found, model))
    return Made(dict(found.runners), graphs, worst, found)


def _compiled(component: Any) -> Callable[..., Any]:
    """A graph of torch.export compiled ahead of time, which takes the arguments that it was traced with and no others."""
    with tempfile.NamedTemporaryFile(suffix=".pt2", delete=False) as file, quietly():
        path = torch._inductor.aoti_compile_and_package(component.program, package_path=file.name)
    package, names = torch._inductor.aoti_load_package(path), list(component.metadata.kwargs)
    return lambda **given: package(**{name: given[name] for name in names})


def _on_one_thread(name: str) -> dict[str, Any]:
    """What the runner of a format is told; ExecuTorch chooses its threads itself."""
    if name == "onnx":
        options = import_module("onnxruntime").SessionOptions()
        options.intra_op_num_threads = 1
        return {"session_options": options}
    if name == "openvino":
        return {"config": {**FORMATS[name].runs_with["config"], "INFERENCE_NUM_THREADS": 1}}
    return dict(FORMATS[name].runs_with)


@torch.no_grad()
def speed(families: Sequence[str], engines: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """One row for each family, engine, stage and attention."""
    for family in families:
        for engine in engines:
            models: dict[str, PreTrainedModel] = {}
            made: dict[str, Made] = {}
            for attention in ATTENTIONS:
                start = time.perf_counter()
                models[attention] = model_of(family, attention)
                made[attention] = exported(models[attention], engine)
                print(f"{family} {engine} {attention}: exported in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            for stage in next(iter(made.values())).runners:
                size = CALL if stage == "model" or engine != "executorch" else PLANNED_CALL
                calls = {attention: _call(models[attention], made[attention].runners[stage], stage, size) for attention in ATTENTIONS}
                times = timed(calls, rounds)
                for attention in ATTENTIONS:
                    ratios = [one / other for one, other in zip(times[attention], times["softmax"], strict=True)]
                    yield {
                        "family": family,
                        "engine": engine,
                        "stage": stage,
                        "size": size,
                        "attention": attention,
                        "milliseconds": percentiles([1e3 * each for each in times[attention]]),
                        "ratio": percentiles(ratios),
                        "largest_difference": made[attention].largest_difference,
                        **made[attention].graphs[stage],
                    }


def _call(model: PreTrainedModel, run: Callable[..., Any], stage: str, size: tuple[int, int]) -> Callable[[], Any]:
    inputs = random_inputs(model, *size)
    given = inputs if stage == "model" else stages_of(model, inputs)[stage]
    return lambda: run(**given)


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, after two that do not count."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name in calls if number % 2 else reversed(calls):
            took = processor_time(calls[name])
            if number > 1:
                found[name].append(took)
    return found


@torch.no_grad()
def int8(models: dict[str, str], tokenizer: str, data: Path, batch: int = 32) -> Iterator[dict[str, Any]]:
    """Accuracy of each model on the rows of a file: live, exported to ONNX, and with int8 weights."""
    with data.open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    words = AutoTokenizer.from_pretrained(tokenizer)
    for name, folder in models.items():
        model = read_checkpoint(folder).load().eval()
        with tempfile.TemporaryDirectory() as out:
            found = exported_model(model, "onnx")
            found.to()
            found.save_pretrained(out)
            smaller = quantize(found, Path(out))
            checks = list(differences(smaller, model))
            sizes = [sum(each.stat().st_size for each in Path(out).glob(pattern)) for pattern in ("model.onnx*", "model_quantized.onnx*")]
        ways: dict[str, Callable[..., Any]] = {"live": model, "ONNX": found, "ONNX, int8": smaller}
        right, same = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0)
        for start in range(0, len(read), batch):
            part = read[start : start + batch]
            inputs = dict(words([row["text"] for row in part], padding=True, truncation=True, max_length=128, return_tensors="pt"))
            inputs.pop("token_type_ids", None)
            labels = torch.tensor([int(row["label"]) for row in part])
            answers = {way: run(**inputs).logits.argmax(-1) for way, run in ways.items()}
            for way, answer in answers.items():
                right[way] += int((answer == labels).sum())
                same[way] += int((answer == answers["live"]).sum())
        yield {
            "model": name,
            "data": f"{data.parent.name}/{data.stem}",
            "rows": len(read),
            "accuracy": {way: count / len(read) for way, count in right.items()},
            "same_answer": {way: count / len(read) for way, count in same.items()},
            "bytes": sizes,
            "int8_difference": max(each["difference"] for each in checks),
        }


def speed_table(result: dict[str, Any]) -> str:
    """Time over the exported softmax twin's, nodes more than its per attention, and the largest difference from the live model."""
    header = [
        "model",
        "engine",
        "attention",
        "time over softmax's: median (p20 to p80)",
        "attention nodes",
        "nodes more",
        "largest difference",
    ]
    lines = []
    for row in result["rows"]:
        if row["attention"] == "softmax":
            twin = row
            continue
        low, middle, high = row["ratio"]
        more = (row["nodes"] - twin["nodes"]) / SIZE["num_hidden_layers"]
        model = row["family"] if row["stage"] == "model" else f"{row['family']}, {row['stage']}"
        fused = row["attention_nodes"] / SIZE["num_hidden_layers"]
        cells = [model, row["engine"], row["attention"], f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        lines.append([*cells, f"{fused:g}" if fused else "-", f"{more:.1f}", f"{row['largest_difference']:.1e}"])
    return table(header, lines, markdown=True)


def int8_table(result: dict[str, Any]) -> str:
    """Accuracy before and after."""
    header = ["model", "live", "ONNX", "ONNX, int8", "same answer", "MB", "MB, int8"]
    lines = [
        [
            row["model"],
            *(f"{value:.4f}" for value in row["accuracy"].values()),
            f"{row['same_answer']['ONNX, int8']:.4f}",
            *(f"{size / 1e6:.0f}" for size in row["bytes"]),
        ]
        for row in result["rows"]
    ]
    return table(header, lines, markdown=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and write the result."""
    parser = Parser(prog="python -m recipes.benchmarks.export", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    fast = commands.add_parser("speed")
    fast.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    fast.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    fast.add_argument("--rounds", type=int, default=30)
    small = commands.add_parser("int8")
    small.add_argument("--models", nargs="+", metavar="NAME=FOLDER", required=True)
    small.add_argument("--tokenizer", required=True)
    small.add_argument("--data", type=Path, required=True)
    for each in (fast, small):
        each.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows: Iterator[dict[str, Any]]
    if options.command == "speed":
        rows, formats = speed(options.families, options.engines, options.rounds), {ENGINES[each][0] for each in options.engines}
    else:
        rows, formats = int8(dict(each.split("=", 1) for each in options.models), options.tokenizer, options.data), {"onnx"}
    versions = {package: version for name in sorted(formats) for package, version in versions_of(name).items()}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    threads = torch.get_num_threads()
    result: dict[str, Any] = {"rows": [], "environment": environment() | versions, "threads": threads, "commit": git_commit(), "time": when}
    for row in rows:
        result["rows"].append(row)
        if options.out is not None:  # so that a run that is stopped keeps what it has measured
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print((speed_table if options.command == "speed" else int8_table)(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
