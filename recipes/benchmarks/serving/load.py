"""A load with clients that hang up and a worker that is killed: nothing that was acknowledged is lost, and nobody waits for ever.

python -m recipes.benchmarks.serving.load [--requests 200] [--output FILE]

A server of a tiny TanhMax model first answers every prompt, eight at a time. Then all are sent at once; a part of the clients hang up in
the middle of their answers, and the worker, the process that computes, is killed while others are being answered. Each answer that came to
its end must be the one from before, each cancelled one its beginning, and each other request must have got an error. The server is started
again, and asked what was refused.
"""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from ...command_line import Parser
from .engine import conditions, save_tiny, set_environment
from .server import ANSWER_SECONDS, Answer, Server, ask, ask_all

OPTIONS = {"enforce-eager": True, "dtype": "float32", "max-model-len": 256, "max-num-seqs": 32, "skip-tokenizer-init": True}
CANCELLED = 5  # of these one client hangs up


def bodies(count: int) -> list[dict[str, Any]]:
    """Requests with prompts of random tokens and answers of several lengths."""
    draw = random.Random(0)
    return [
        {
            "prompt": [draw.randrange(3, 128) for _ in range(draw.randint(1, 64))],
            "max_tokens": draw.randint(16, 96),
            "temperature": 0,
            "ignore_eos": True,
            "detokenize": False,
        }
        for _ in range(count)
    ]


async def under_load(server: Server, asked: list[dict[str, Any]], *, killed_after: int) -> list[Answer]:
    """Send all requests at once, and kill the worker when so many have been answered."""
    complete = 0
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=httpx.Limits(max_connections=None)) as client:

        async def _one(number: int, body: dict[str, Any]) -> Answer:
            nonlocal complete
            answer = await ask(client, server.url, body, cancel_after=4 if number % CANCELLED == 0 else None)
            complete += answer.status == "complete"
            if complete == killed_after and answer.status == "complete":
                for process in server.workers():
                    os.kill(process, signal.SIGKILL)
            return answer

        return await asyncio.gather(*(_one(number, body) for number, body in enumerate(asked)))


def wrong(answers: list[Answer], expected: list[Answer]) -> list[int]:
    """Which requests were acknowledged with other tokens than expected: all of those of a complete answer, the first of a cancelled one."""
    return [
        number
        for number, (found, right) in enumerate(zip(answers, expected, strict=True))
        if (found.status == "complete" and found.tokens != right.tokens)
        or (found.status == "cancelled" and found.tokens != right.tokens[: len(found.tokens)])
    ]


def run(count: int, folder: Path) -> dict[str, Any]:
    """What came of the requests, before and after the worker was killed."""
    save_tiny(folder / "model", "tanhmax_llama")
    asked, start = bodies(count), time.perf_counter()
    with Server(folder / "model", folder / "first.log", OPTIONS) as server:
        expected = asyncio.run(ask_all(server.url, asked, concurrent=8))
        answers = asyncio.run(under_load(server, asked, killed_after=count // 8))
        deadline = time.monotonic() + 60
        while server.is_healthy() and time.monotonic() < deadline:
            time.sleep(0.2)
        healthy = server.is_healthy()
    refused = [number for number, each in enumerate(answers) if each.status == "refused"]
    with Server(folder / "model", folder / "second.log", OPTIONS) as server:
        again = asyncio.run(ask_all(server.url, [asked[number] for number in refused], concurrent=count))
    right_again = [found.tokens == expected[number].tokens for number, found in zip(refused, again, strict=True)]
    return {
        "requests": count,
        "expected": sum(each.status == "complete" for each in expected),
        "under_load": dict(Counter(each.status for each in answers)),
        "acknowledged_and_wrong": len(wrong(answers, expected)),
        "refused_without_error": sum(not answers[number].error for number in refused),
        "errors": dict(Counter(answers[number].error.split(":")[0] for number in refused)),
        "longest_wait": max(each.seconds for each in answers),
        "healthy_without_worker": healthy,
        "answered_after_restart": sum(right_again),
        "seconds": time.perf_counter() - start,
    }


def is_right(found: dict[str, Any]) -> bool:
    """Whether nothing that was acknowledged was lost."""
    load = found["under_load"]
    answered = found["expected"] == found["requests"] and found["answered_after_restart"] == load.get("refused", 0)
    happened = all(load.get(status, 0) > 0 for status in ("complete", "cancelled", "refused"))
    silent = found["refused_without_error"] or found["acknowledged_and_wrong"] or found["healthy_without_worker"]
    return bool(answered and happened and not silent and found["longest_wait"] < ANSWER_SECONDS)


def main() -> None:
    """Run it, and write or print what came of it; the exit status says whether anything was lost."""
    parser = Parser(prog="python -m recipes.benchmarks.serving.load", description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    set_environment()
    with tempfile.TemporaryDirectory() as folder:
        found = run(arguments.requests, Path(folder))
    text = json.dumps({"conditions": conditions(), "load": found}, indent=1) + "\n"
    if arguments.output is None:
        print(text)
    else:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")
    if not is_right(found):
        sys.exit("something that was acknowledged was lost, or a request got no answer")


if __name__ == "__main__":
    main()
