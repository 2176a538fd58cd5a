"""The sockets of the loopback Hub: one thread a connection, repositories that outlive the server, and what was asked of it."""

import contextlib
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .faults import Faults
from .repositories import Account, RefusalError, Store
from .routes import Answer, Request, answer

OWNER_TOKEN = "hf_loopbackOwnerSecretDoNotPrintMe000000"
READER_TOKEN = "hf_loopbackReaderSecretDoNotPrintMe00000"
STRANGER_TOKEN = "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000"
UNKNOWN_TOKEN = "hf_loopbackUnknownSecretDoNotPrintMe0000"
ACCOUNTS = {OWNER_TOKEN: Account("owner"), READER_TOKEN: Account("owner", "read"), STRANGER_TOKEN: Account("stranger")}
CHUNK = 1 << 12


@dataclass(frozen=True)
class Asked:
    """One request, as a test can look at it afterwards."""

    method: str
    path: str
    authorized: bool
    range: str | None


class LoopbackHub:
    """A Hub at `url`. It can die and be started again at the same address, with the same repositories."""

    def __init__(self) -> None:
        self.store, self.faults, self.lock = Store(ACCOUNTS), Faults(), threading.Lock()
        self.asked: list[Asked] = []
        self._port = 0
        self._server: _Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def alive(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds."""
        return {path: blob.content for path, blob in self.store.repositories[repo_id].resolve(revision)[1].items()}

    def titles(self, repo_id: str) -> list[str]:
        """The messages of its commits, the oldest first."""
        return self.store.repositories[repo_id].titles


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], hub: LoopbackHub):
        self.hub = hub
        super().__init__(address, _Handler)


class _GoneError(Exception):
    """The connection is to be closed without an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing: a test asks `LoopbackHub.asked`."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that has died itself
            super().handle()

    def respond(self) -> None:
        hub, self.close_connection = self.server.hub, False
        try:
            if not hub.alive:
                raise _GoneError
            found = self._answer(hub)
            if not hub.alive:
                raise _GoneError
            self._send(found)
        except _GoneError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond  # noqa: N815

    def _answer(self, hub: LoopbackHub) -> Answer:
        target = urlsplit(self.path)
        body = self._body(hub, large=target.path.startswith("/_large/"))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with hub.lock:
            hub.asked.append(Asked(self.command, unquote(target.path), token is not None, self.headers.get("Range")))
            try:
                hub.faults.refuse(target.path)
                account = hub.store.account(token)
                query = dict(parse_qsl(target.query))
                request = Request(self.command, target.path, query, self.headers, body, account, hub.url)
                return answer(hub.store, hub.faults, request)
            except RefusalError as refusal:
                code = {"X-Error-Code": refusal.code} if refusal.code else {}
                return Answer({"error": refusal.message}, refusal.status, {**code, "X-Error-Message": refusal.message})

    def _body(self, hub: LoopbackHub, *, large: bool) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(self._chunks())
        left, read = int(self.headers.get("Content-Length") or 0), bytearray()
        while left > len(read):
            limit = hub.faults.die_in_upload_after
            if large and limit is not None and len(read) >= limit:
                hub.faults.take("die_in_upload_after")
                hub.stop()
                raise _GoneError
            if not (part := self.rfile.read(min(CHUNK, left - len(read)))):
                raise _GoneError
            read += part
        return bytes(read)

    def _chunks(self) -> Any:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, found: Answer) -> None:
        is_bytes = isinstance(found.body, bytes)
        body = found.body if is_bytes else json.dumps(found.body).encode()
        headers = {} if is_bytes else {"Content-Type": "application/json"}
        self.send_response(found.status)
        for name, value in {**headers, **found.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.server.hub.faults.cut_download_after
        if is_bytes and limit is not None and len(body) > limit:
            self.server.hub.faults.take("cut_download_after")
            self.wfile.write(body[:limit])
            raise _GoneError
        self.wfile.write(body)
