"""lm-eval on converted folders: log-likelihoods and generated texts are those of the definition."""

import pytest
import torch
from families import NAIVE
from tiny_checkpoints import pieces, save_converted, save_softmax, words

from hf_tanhmax.models.family import TanhMaxFields

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::ResourceWarning"),
]


def ended_words():
    """A tokenizer with an end of texts, which lm-eval wants."""
    tokenizer = words()
    tokenizer.eos_token = "[SEP]"
    return tokenizer


# For each architecture: the class, its tokenizer, and the backend that lm-eval must find by itself.
MODELS = {
    "Mistral": ("MistralForCausalLM", pieces(), "causal"),
    "Qwen3": ("Qwen3ForCausalLM", pieces(), "causal"),
    "Gemma 2": ("Gemma2ForCausalLM", pieces(), "causal"),
    "T5": ("T5ForConditionalGeneration", ended_words(), "seq2seq"),
}
REQUESTS = [("a gripping", " funny film"), ("not", " funny at all"), ("a film, and", " why not")]


def requests(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=index) for index, each in enumerate(arguments)]


def evaluator(folder, **changes):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=2, **changes)


@pytest.mark.parametrize("name", MODELS)
def test_scores_and_texts(name, tmp_path):
    head, tokenizer, backend = MODELS[name]
    softmax = save_softmax(tmp_path / "softmax", head, name, tokenizer, **({"decoder_start_token_id": 0} if backend == "seq2seq" else {}))
    model = evaluator(save_converted(softmax, tmp_path / "tanhmax"))
    assert isinstance(model.model.config, TanhMaxFields)
    assert model.backend == backend
    scored = requests("loglikelihood", *REQUESTS)
    found = torch.tensor(model.loglikelihood(scored, disable_tqdm=True))
    expected = torch.tensor(evaluator(softmax, attn_implementation=NAIVE).loglikelihood(scored, disable_tqdm=True))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    stock = evaluator(softmax)
    assert (found - torch.tensor(stock.loglikelihood(scored, disable_tqdm=True))).abs().max() > 1e-2

    asked = requests("generate_until", *((prompt, {"until": ["zzz"], "max_gen_toks": 5, "do_sample": False}) for prompt, _ in REQUESTS))
    texts = model.generate_until(asked, disable_tqdm=True)
    assert texts == evaluator(softmax, attn_implementation=NAIVE).generate_until(asked, disable_tqdm=True)


TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: [" funny", " not"]
metric_list: [{{metric: acc}}]
"""


def test_a_task_from_a_file(tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.json").write_text('[{"question": "a film is", "answer": 0}, {"question": "why", "answer": 1}]')
    (tmp_path / "tasks" / "tiny_choice.yaml").write_text(TASK.format(file=tmp_path / "rows.json"))
    softmax = save_softmax(tmp_path / "softmax", "Qwen3ForCausalLM", "Qwen3", pieces())
    folder = save_converted(softmax, tmp_path / "tanhmax")
    tasks = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    report = simple_evaluate(
        "hf",
        model_args={"pretrained": folder, "dtype": "float32"},
        tasks=["tiny_choice"],
        task_manager=tasks,
        device="cpu",
        bootstrap_iters=0,
    )
    assert report["results"]["tiny_choice"]["acc,none"] in (0.0, 0.5, 1.0)
    assert len(report["samples"]["tiny_choice"]) == 2
