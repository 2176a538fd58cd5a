"""vLLM itself: tokens and log-probabilities are those of Transformers, and what it cannot do is refused in one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm.version", reason="vLLM is not installed (pip install --group client-vllm)")  # this folder is called vllm, too
pytestmark = pytest.mark.slow

from recipes.benchmarks.serving.engine import ENVIRONMENT, save_tiny
from recipes.benchmarks.serving.equality import CASES, LIMIT

ROOT = Path(__file__).parents[2]
SECONDS = 900


def in_a_process(*command, **environment):
    """Run Python with vLLM's engine in its own process, where our settings for tests and our warnings are not."""
    own = ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0", **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=os.environ | own, cwd=ROOT, timeout=SECONDS)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What came of all cases of the recipe."""
    path = tmp_path_factory.mktemp("served") / "equality.json"
    run = in_a_process("-m", "recipes.benchmarks.serving.equality", "--output", str(path))
    assert path.exists(), run.stderr[-3000:]
    return json.loads(path.read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_it_answers_as_transformers_does(served, name):
    case = served[name]
    assert (case["prompts"], case["tokens"], case["same"]) == (20, 64, 20)
    assert case["difference"] < LIMIT < 1e-2 < case["difference_of_softmax"]


def test_the_cache_was_shared_and_requests_were_put_off(served):
    assert served["llama, shared prefixes"]["cached_tokens"] > 0
    assert served["llama, preempted"]["preemptions"] > 0


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny(folder / "llama", "tanhmax_llama")
    save_tiny(folder / "learned", "tanhmax_llama", tanhmax_polarity="learned")
    save_tiny(folder / "heads", "tanhmax_llama", tanhmax_heads=[1])
    save_tiny(folder / "classifier", "tanhmax_llama")
    config = json.loads((folder / "classifier" / "config.json").read_text())
    (folder / "classifier" / "config.json").write_text(json.dumps(config | {"architectures": ["TanhMaxLlamaForSequenceClassification"]}))
    return folder


OPEN = """
import json, sys
from vllm import LLM, SamplingParams
options = {"dtype": "float32", "enforce_eager": True, "skip_tokenizer_init": True, "max_model_len": 64, "max_num_seqs": 2}
engine = LLM(model=sys.argv[1], **options | json.loads(sys.argv[2]))
answer = engine.generate([{"prompt_token_ids": [5, 6, 7]}], SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, detokenize=False))
print("TOKENS", json.dumps(list(answer[0].outputs[0].token_ids)))
"""


def opened(folder, options=None, **environment):
    return in_a_process("-c", OPEN, str(folder), json.dumps(options or {}), **environment)


@pytest.mark.parametrize("trust", [False, True])
def test_without_the_plugin_it_is_refused(checkpoints, trust):
    run = opened(checkpoints / "llama", {"trust_remote_code": trust}, VLLM_PLUGINS="")
    assert run.returncode != 0
    assert "TOKENS" not in run.stdout
    assert ('"vllm" computes softmax, but this layer is set to TanhMax' if trust else "tanhmax_llama") in run.stderr


def test_without_the_plugin_it_is_refused_even_where_the_package_is_imported(checkpoints):
    run = in_a_process("-c", "import hf_tanhmax" + OPEN, str(checkpoints / "llama"), "{}", VLLM_PLUGINS="")
    assert run.returncode != 0
    assert "TOKENS" not in run.stdout
    assert "TanhMaxLlamaForCausalLM" in run.stderr


def test_code_that_came_with_the_checkpoint_gives_way_to_the_package(checkpoints):
    plain, trusting = (opened(checkpoints / "llama", {"trust_remote_code": trust}) for trust in (False, True))
    assert plain.stdout.splitlines()[-1].startswith("TOKENS"), plain.stderr[-3000:]
    assert trusting.stdout.splitlines()[-1] == plain.stdout.splitlines()[-1], trusting.stderr[-3000:]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llama", {"kv_cache_dtype": "fp8"}, "vLLM 0.32.* does not serve a TanhMax model with a KV cache of fp8"),
        ("llama", {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "a TanhMax model with speculative decoding"),
        ("learned", {"tensor_parallel_size": 2}, "with a learned polarity under tensor parallelism"),
        ("heads", {"tensor_parallel_size": 2}, "with tanhmax_heads under tensor parallelism"),
        ("classifier", {}, "TanhMaxLlamaForSequenceClassification"),
        ("llama", {"model_impl": "transformers"}, "Cannot find model module"),
    ],
)
def test_what_it_cannot_do_is_refused(checkpoints, name, options, message):
    import re

    run = opened(checkpoints / name, options)
    assert run.returncode != 0
    assert "TOKENS" not in run.stdout
    assert re.search(message, run.stderr), run.stderr[-3000:]
