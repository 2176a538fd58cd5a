"""Whether vLLM answers as Transformers does: tokens chosen greedily, and their log-probabilities, of tiny models of many architectures.

python -m recipes.benchmarks.serving.equality [--cases llama mistral ...] [--output FILE]

Each case is a checkpoint and an engine. Twenty prompts of mixed lengths are given at once and 64 tokens asked for each; then Transformers
says, one prompt after the other, which token it would have chosen in each place, and how probable it takes vLLM's to be. How much softmax
attention with the same weights would differ is given beside it. In half precision Transformers computes in float32 with the rounded
weights, and vLLM may differ from that by at most twice as much as Transformers in half precision does. Where only some cases are named, the
others that FILE holds stay as they are; each says of which commit it is.
"""

import gc
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from hf_tanhmax.provenance import git_commit

from ...command_line import Parser
from .engine import conditions, save_adapter, save_tiny, set_environment

TOKENS, LIMIT = 64, 1e-4
LENGTHS = (1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 53, 64, 65, 79, 97, 130)
SHARED = 70  # tokens that all prompts begin with, where prefixes are shared
WINDOW: dict[str, Any] = {"sliding_window": 24}
SMALL_CHUNKS: dict[str, Any] = {"max_num_batched_tokens": 16, "max_num_seqs": 8}
# Blocks of 32 keys for six requests of up to 194 tokens: too few, so that requests are put off and computed again.
FEW_BLOCKS: dict[str, Any] = {"num_gpu_blocks_override": 16, "block_size": 32, "max_num_seqs": 6}
TWO_RANKS: dict[str, Any] = {"tensor_parallel_size": 2}


@dataclass(frozen=True)
class Case:
    """A checkpoint and the engine that serves it.

    Attributes:
        model_type: of the checkpoint.
        values: of its config: sizes, and the TanhMax settings.
        engine: arguments of `vllm.LLM`.
        shared: whether all prompts begin alike.
        dtype: of the weights.
        adapter: whether a LoRA adapter is served with it, which Transformers has merged.
    """

    model_type: str
    values: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    shared: bool = False
    dtype: str = "float32"
    adapter: bool = False


CASES = {
    "llama": Case("tanhmax_llama"),
    "llama, chunked": Case("tanhmax_llama", engine=SMALL_CHUNKS),
    "llama, shared prefixes": Case("tanhmax_llama", engine={"block_size": 32, "max_num_seqs": 4}, shared=True),
    "llama, preempted": Case("tanhmax_llama", engine=FEW_BLOCKS),
    "llama, balanced": Case("tanhmax_llama", {"tanhmax_shift": "balanced"}, SMALL_CHUNKS),
    "llama, learned": Case("tanhmax_llama", {"tanhmax_polarity": "learned", "tanhmax_heads": [0, 3]}),
    "llama, compiled": Case("tanhmax_llama", engine={"enforce_eager": False}),
    "llama, bfloat16": Case("tanhmax_llama", engine=SMALL_CHUNKS, dtype="bfloat16"),
    "llama, LoRA": Case("tanhmax_llama", engine={"enable_lora": True, "max_lora_rank": 8}, adapter=True),
    "llama, two ranks": Case("tanhmax_llama", {"tanhmax_polarity": "learned", "tanhmax_heads": [0, 3]}, TWO_RANKS),
    "llama, two ranks, balanced": Case("tanhmax_llama", {"tanhmax_shift": "balanced", "tanhmax_polarity": 0.5}, TWO_RANKS),
    "mistral": Case("tanhmax_mistral", WINDOW),
    "mistral, chunked": Case("tanhmax_mistral", WINDOW | {"tanhmax_polarity": 0.7}, SMALL_CHUNKS | {"block_size": 32}),
    "mistral, some layers": Case("tanhmax_mistral", WINDOW | {"tanhmax_layers": [1, 2]}, {"block_size": 32}),
    "qwen2": Case("tanhmax_qwen2", {"tanhmax_layers": [0, 3], "tanhmax_polarity": 0.5}),
    "qwen3": Case("tanhmax_qwen3", {"tanhmax_heads": [1, 2], "tanhmax_shift": "balanced"}),
    "gemma": Case("tanhmax_gemma"),
    "gemma2": Case("tanhmax_gemma2", WINDOW | {"query_pre_attn_scalar": 32, "attn_logit_softcapping": 5.0}, SMALL_CHUNKS),
    "gemma3_text": Case("tanhmax_gemma3_text", WINDOW | {"query_pre_attn_scalar": 32, "num_hidden_layers": 6}),
    "phi3": Case("tanhmax_phi3"),
    "granite": Case("tanhmax_granite", {"attention_multiplier": 0.25}),
    "smollm3": Case("tanhmax_smollm3"),
    "olmo": Case("tanhmax_olmo"),
    "starcoder2": Case("tanhmax_starcoder2", WINDOW),
    "mixtral": Case("tanhmax_mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": Case("tanhmax_qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
}


def prompts(shared: bool) -> list[list[int]]:
    """Twenty prompts of tokens from 3 on."""
    start = [3 + (5 * place) % 125 for place in range(SHARED)] if shared else []
    return [start + [3 + (7 * place + 11 * length) % 125 for place in range(length)] for length in LENGTHS]


def run(case: Case, folder: Path, *, tokens: int = TOKENS) -> dict[str, Any]:
    """What came of a case: how many prompts got the same tokens, the largest difference of a log-probability, and what the engine did."""
    from vllm import LLM, SamplingParams

    model, given = save_tiny(folder, case.model_type, **case.values), prompts(case.shared)
    options = {"dtype": case.dtype, "enforce_eager": True, "skip_tokenizer_init": True, "max_model_len": 320, "max_num_seqs": 8}
    engine = LLM(model=str(folder), **options | case.engine, disable_log_stats=False)
    asked = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, logprobs=1, detokenize=False)
    request = None
    if case.adapter:
        model = save_adapter(folder / "adapter", model)
        request = import_module("vllm.lora.request").LoRARequest("adapter", 1, str(folder / "adapter"))
    start = time.perf_counter()
    answers = engine.generate([{"prompt_token_ids": each} for each in given], asked, use_tqdm=False, lora_request=request)
    seconds = time.perf_counter() - start
    counters = {metric.name.removeprefix("vllm:"): metric.value for metric in engine.get_metrics() if hasattr(metric, "value")}
    del engine
    gc.collect()
    pairs, limit = [(prompt, answer.outputs[0]) for prompt, answer in zip(given, answers, strict=True)], LIMIT
    if case.dtype != "float32":
        rounded = model.to(getattr(torch, case.dtype))
        own = [of_chosen(rounded, *pair) for pair in pairs]
        model = rounded.float()
        limit = 2.0 * max(float((one - of_chosen(model, *pair)).abs().max()) for one, pair in zip(own, pairs, strict=True))
    found = [compared(model, *pair) for pair in pairs]
    softmax = softmax_twin(model)
    return {
        "prompts": len(given),
        "tokens": tokens,
        "same": sum(same for same, _ in found),
        "difference": max(difference for _, difference in found),
        "limit": limit,
        "difference_of_softmax": compared(softmax, *pairs[-1])[1],
        "seconds": round(seconds, 2),
        "preemptions": counters.get("num_preemptions", 0),
        "cached_tokens": counters.get("prefix_cache_hits", 0),
    }


def is_right(name: str, case: dict[str, Any]) -> bool:
    """Whether a case came out as it should; in half precision a token may win that is as probable as another."""
    return case["difference"] <= case["limit"] and (case["same"] == case["prompts"] or CASES[name].dtype != "float32")


@torch.no_grad()
def log_probabilities(model: Any, prompt: list[int], answer: Any) -> torch.Tensor:
    """Those that a model of Transformers gives to all tokens at each place of an answer of vLLM, float32 `[tokens, vocabulary]`."""
    logits = model(torch.tensor([prompt + list(answer.token_ids)])).logits
    return logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)


def of_chosen(model: Any, prompt: list[int], answer: Any) -> torch.Tensor:
    """The same of the tokens that vLLM chose alone, `[tokens]`."""
    return log_probabilities(model, prompt, answer).gather(1, torch.tensor([list(answer.token_ids)]).T)[:, 0]


def compared(model: Any, prompt: list[int], answer: Any) -> tuple[bool, float]:
    """Whether a model of Transformers chooses the tokens of vLLM, and the largest difference of their log-probabilities."""
    chosen, expected = list(answer.token_ids), log_probabilities(model, prompt, answer)
    pairs = zip(chosen, answer.logprobs, expected, strict=True)
    return expected.argmax(-1).tolist() == chosen, max(abs(found[token].logprob - row[token].item()) for token, found, row in pairs)


def softmax_twin(model: Any) -> Any:
    """The softmax model with the same weights."""
    upstream: Any = type(model).__mro__[1]
    values = {name: value for name, value in model.config.to_dict().items() if not name.startswith("tanhmax_") and name != "model_type"}
    twin = upstream(upstream.config_class(**values)).eval()
    twin.load_state_dict(model.state_dict(), strict=False)
    return twin


def kept(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What a file holds, to which some cases are added; it stays as it was said of another commit, but not of other versions."""
    differing = sorted(name for name in now if name != "commit" and before["conditions"].get(name) != now[name])
    if differing:
        raise SystemExit(f"the file was measured with another {', '.join(differing)}: run all cases, or name another file")
    return before


def main() -> None:
    """Run cases, and print or write what came of them; the exit status says whether all are right."""
    parser = Parser(prog="python -m recipes.benchmarks.serving.equality", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    set_environment(VLLM_ENABLE_V1_MULTIPROCESSING="0")
    found: dict[str, Any] = {"conditions": conditions(), "cases": {}}
    if arguments.output is not None and arguments.output.exists() and set(arguments.cases) != set(CASES):
        found = kept(json.loads(arguments.output.read_text(encoding="utf-8")), found["conditions"])
    cases = found["cases"]
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(arguments.cases):
            cases[name] = run(CASES[name], Path(folder) / str(number)) | {"commit": git_commit()}
            print(name, json.dumps(cases[name]), file=sys.stderr, flush=True)
            if arguments.output is not None:  # so that a run that is stopped keeps what it has found
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.output is None:
        print(json.dumps(found, indent=1))
    if not all(is_right(name, cases[name]) for name in arguments.cases):
        sys.exit("vLLM and Transformers differ")


if __name__ == "__main__":
    main()
