"""vLLM itself: tokens and log-probabilities are those of Transformers, and what it cannot do is refused in one sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.benchmarks.serving.engine import ENVIRONMENT, save_tiny
from recipes.benchmarks.serving.equality import CASES, LIMIT

pytest.importorskip("vllm.version", reason="vLLM is not installed (pip install --group client-vllm)")  # this folder is called vllm, too
pytestmark = [pytest.mark.slow, pytest.mark.engine]

ROOT = Path(__file__).parents[2]


def in_a_process(*command, seconds=300, **environment):
    """Run Python with vLLM's engine in its own process, where our settings for tests and our warnings are not."""
    own = ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0", **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=os.environ | own, cwd=ROOT, timeout=seconds)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What came of all cases of the recipe."""
    path = tmp_path_factory.mktemp("served") / "equality.json"
    run = in_a_process("-m", "recipes.benchmarks.serving.equality", "--output", str(path), seconds=2400)
    assert path.exists(), run.stderr[-3000:]
    return json.loads(path.read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_it_answers_as_transformers_does(served, name):
    case = served[name]
    assert (case["prompts"], case["tokens"]) == (20, 64)
    if CASES[name].dtype == "float32":
        assert case["same"] == 20
        assert case["limit"] == LIMIT
    assert case["difference"] <= case["limit"] < 1.0 < case["difference_of_softmax"]


def test_the_cache_was_shared_and_requests_were_put_off(served):
    assert served["llama, shared prefixes"]["cached_tokens"] > 0
    assert served["llama, preempted"]["preemptions"] > 0


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny(folder / "llama", "tanhmax_llama")
    save_tiny(folder / "classifier", "tanhmax_llama")
    config = json.loads((folder / "classifier" / "config.json").read_text())
    (folder / "classifier" / "config.json").write_text(json.dumps(config | {"architectures": ["TanhMaxLlamaForSequenceClassification"]}))
    return folder


OPEN = """
import gc, json, sys
from vllm import LLM, SamplingParams
found = []
for name, changes in json.loads(sys.argv[1]):
    options = {"dtype": "float32", "enforce_eager": True, "skip_tokenizer_init": True, "max_model_len": 64, "max_num_seqs": 2}
    asked = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, detokenize=False)
    try:
        engine = LLM(model=name, **options | changes)
        found.append(list(engine.generate([{"prompt_token_ids": [5, 6, 7]}], asked, use_tqdm=False)[0].outputs[0].token_ids))
    except Exception as error:
        found.append(str(error))
    engine = None
    gc.collect()
print("FOUND", json.dumps(found))
"""


def opened(folder, engines, *, first="", **environment):
    """For each engine, by its checkpoint and options, the tokens that it gives or what it says."""
    run = in_a_process("-c", first + OPEN, json.dumps([(str(folder / name), options) for name, options in engines]), **environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1].removeprefix("FOUND "))


@pytest.mark.parametrize("first", ["", "import hf_tanhmax"])
def test_without_the_plugin_it_is_refused(checkpoints, first):
    engines = [("llama", {}), ("llama", {"model_impl": "transformers"}), ("llama", {"trust_remote_code": True})]
    *plain, trusting = opened(checkpoints, engines, first=first, VLLM_PLUGINS="")
    lacking = "TanhMaxLlamaForCausalLM" if first else "contains custom code"
    assert all(lacking in each for each in plain), plain
    assert '"vllm" computes softmax, but this layer is set to TanhMax' in trusting


REFUSED = [
    ("llama", {"kv_cache_dtype": "fp8"}, "vLLM 0.32.* does not serve a TanhMax model with a KV cache of fp8"),
    ("llama", {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "a TanhMax model with speculative decoding"),
    ("llama", {"pipeline_parallel_size": 2}, "with pipeline parallelism on the CPU, where it fails at the first step with any model"),
    ("llama", {"hf_overrides": {"architectures": ["LlamaForCausalLM"]}}, "with the softmax class LlamaForCausalLM"),
    ("llama", {"hf_overrides": {"architectures": ["InternLM3ForCausalLM"]}}, "with the softmax class InternLM3ForCausalLM"),
    ("llama", {"hf_overrides": {"architectures": ["GptOssForCausalLM"]}}, "with the softmax class GptOssForCausalLM"),
    ("llama", {"hf_overrides": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}}, "as its config has tanhmax_"),
    ("classifier", {}, "with classification or embeddings"),
    ("llama", {"model_impl": "transformers"}, "TanhMaxLlamaForCausalLM' is not a registered model in the Transformers library"),
]


def test_what_it_cannot_do_is_refused(checkpoints):
    for found, (_, _, message) in zip(opened(checkpoints, [each[:2] for each in REFUSED]), REFUSED, strict=True):
        assert re.search(message, found), found


def test_code_that_came_with_the_checkpoint_gives_way_to_the_package(checkpoints):
    plain, trusting = opened(checkpoints, [("llama", {}), ("llama", {"trust_remote_code": True})])
    assert len(plain) == 4
    assert trusting == plain
