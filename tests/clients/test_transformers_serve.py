"""`transformers serve` with a TanhMax checkpoint: over HTTP the tokens of `generate`, streamed or not, batched continuously or not."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from families import VOCABULARY, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_tanhmax import TanhMaxLlamaForCausalLM

pytestmark = pytest.mark.slow
for name in ("fastapi", "uvicorn", "openai", "accelerate"):
    pytest.importorskip(name, reason=f"{name} is not installed, which transformers serve needs")
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
PROMPTS = [
    " ".join(f"w{number}" for number in range(start, stop)) for start, stop in ((3, 6), (7, 17), (20, 21), (3, 40), (50, 53), (31, 36))
]
TOKENS = 12


def words():
    """A tokenizer with a word for every token of the model."""
    vocabulary = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="w0", chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model that ends at no token, with its tokenizer."""
    folder = tmp_path_factory.mktemp("served")
    model = tiny_model(TanhMaxLlamaForCausalLM, max_position_embeddings=256)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint):
    model, tokenizer = TanhMaxLlamaForCausalLM.from_pretrained(checkpoint).eval(), words()
    found = {}
    for prompt in PROMPTS:
        tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
        output = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=TOKENS, do_sample=False)
        found[prompt] = tokenizer.decode(output[0, tokens.shape[1] :], skip_special_tokens=True)
    assert len(set(found.values())) > 3
    return found


@contextmanager
def server(checkpoint, *options):
    """The address of one, until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fixed = ("--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "error")
    command = [sys.executable, "-W", "ignore", "-m", "hf_tanhmax.cli.serve", str(checkpoint), *fixed, *options]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    with (checkpoint / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield answering(process, f"http://127.0.0.1:{port}", checkpoint)
    finally:
        process.terminate()
        process.wait(30)


def answering(process, url, checkpoint):
    """The address, once something answers there."""
    for _ in range(1200):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return url
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, (checkpoint / "log").read_text()
            time.sleep(0.1)
    raise AssertionError((checkpoint / "log").read_text())


def asked(url, checkpoint, prompt, *, stream):
    body = {"model": str(checkpoint), "messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS, "stream": stream}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        if not stream:
            return json.loads(answer.read())["choices"][0]["message"]["content"]
        lines = [line.decode().removeprefix("data: ").strip() for line in answer]
    parts = [json.loads(line)["choices"][0]["delta"] for line in lines if line.startswith("{")]
    return "".join(part.get("content") or "" for part in parts)


@pytest.mark.parametrize(
    "options", [(), ("--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "64")], ids=["alone", "batched"]
)
def test_the_tokens_of_generate(checkpoint, expected, options):
    with server(checkpoint, *options) as url, ThreadPoolExecutor(len(PROMPTS)) as clients:
        for stream in (False, True):
            answers = clients.map(partial(asked, url, checkpoint, stream=stream), PROMPTS)
            found = dict(zip(PROMPTS, answers, strict=True))
            assert found == expected, (stream, (checkpoint / "log").read_text()[-2000:])
