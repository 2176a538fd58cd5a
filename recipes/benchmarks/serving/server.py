"""vLLM's OpenAI-compatible server as a process, and a client that says of every request what came of it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from .engine import ENVIRONMENT

START_SECONDS, ANSWER_SECONDS = 240.0, 120.0


@dataclass
class Server:
    """A server of one checkpoint, on a free port of this machine; a context manager that waits until it answers.

    Attributes:
        model: folder of the checkpoint.
        log: file that the process writes to.
        options: of `vllm serve`, such as `{"max-num-seqs": 8}`; True is a flag.
        environment: beside `ENVIRONMENT`.
    """

    model: Path
    log: Path
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        self.port = free_port()
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model), "--port", str(self.port)]
        for name, value in {"host": "127.0.0.1", "served-model-name": "served", "disable-log-requests": None, **self.options}.items():
            command += [] if value is None else [f"--{name}"] if value is True else [f"--{name}", str(value)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | ENVIRONMENT | self.environment, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server did not start: {self.log} ends in {self.log.read_text()[-2000:]}")
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def is_healthy(self) -> bool:
        """Whether it says that it is ready."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=2.0).status_code == 200
        return False

    def stop(self) -> None:
        """End its processes, which are a session of their own."""
        if self.process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=15)
            self.process = None

    def processes(self) -> dict[int, Path]:
        """The folders in /proc of the processes of its session, by their numbers."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.process is not None and os.getsid(int(folder.name)) == self.process.pid:
                    found[int(folder.name)] = folder
        return found

    def workers(self) -> list[int]:
        """The processes that compute, by the name that vLLM gives them."""
        return [number for number, folder in self.processes().items() if b"VLLM::Worker" in (folder / "cmdline").read_bytes()]

    def processor_seconds(self) -> float:
        """The processor time that its processes have taken, whatever else the machine did."""
        ticks = 0
        for folder in self.processes().values():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class Answer:
    """What came of a request.

    Attributes:
        status: `complete`, with its last piece; `cancelled`, by the client; or else `refused`, with an error or a broken connection.
        tokens: that came before its end.
        seconds: from sending it to its end.
        error: of one that was refused.
    """

    status: str
    tokens: list[int]
    seconds: float
    error: str = ""


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any], *, cancel_after: int | None = None) -> Answer:
    """Send one request, which is answered piece by piece, and read its answer to the end.

    Args:
        client: of HTTP.
        url: of the server.
        body: of the request.
        cancel_after: how many tokens the client waits for before it hangs up.
    """
    tokens: list[int] = []
    start, done, error = time.perf_counter(), False, ""
    body = body | {"model": "served", "stream": True, "return_token_ids": True}
    try:
        async with client.stream("POST", f"{url}/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                error = f"{reply.status_code}: {(await reply.aread()).decode(errors='replace')[:200]}"
            else:
                async for line in reply.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    if line == "data: [DONE]":
                        done = not error
                        break
                    piece = json.loads(line.removeprefix("data: "))
                    if "error" in piece:
                        error = str(piece["error"].get("message", piece["error"]))[:200]
                        continue
                    tokens += piece["choices"][0].get("token_ids") or []
                    if cancel_after is not None and len(tokens) >= cancel_after:
                        return Answer("cancelled", tokens, time.perf_counter() - start)
    except httpx.HTTPError as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Answer("complete" if done else "refused", tokens, time.perf_counter() - start, error or ("" if done else "the stream broke off"))


async def ask_all(url: str, bodies: list[dict[str, Any]], *, concurrent: int) -> list[Answer]:
    """Send many requests, at most some of them at once, and wait for all."""
    gate, limits = asyncio.Semaphore(concurrent), httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits) as client:

        async def _one(body: dict[str, Any]) -> Answer:
            async with gate:
                return await ask(client, url, body)

        return await asyncio.gather(*(_one(body) for body in bodies))


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
