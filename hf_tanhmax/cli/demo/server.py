"""The server of the demo: on the loopback address alone, for its own page alone, one explanation at a time.

Requests are read in threads, as browsers open connections ahead of need. The model is called in the thread that `serve` was called in, one
input after the other, so Ctrl-C stops it at once; one input may wait, another is refused.

What another site could try is refused: a name of its own that leads here (`Host`), a form of its own that is sent here (`Origin`), a frame
around this page (`frame-ancestors`). No answer allows another origin to read it.
"""

import re
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Full, Queue
from socketserver import TCPServer
from threading import Thread
from typing import NamedTuple, TypeAlias

from ..checks import in_a_sentence
from .pages import Page, sentence_page

LOOPBACK = "127.0.0.1"
LARGEST = 16 * 2**20  # bytes of a request
SKIPPED = 8 * LARGEST  # bytes that are read past that, so that a browser which is still sending gets to see the answer
DIGITS = 15  # of the length of a request; Python reads no number of thousands
PATIENCE = 30  # seconds that a connection may be silent
CANNOT = "this input cannot be explained"
BUSY = "The model is busy with other inputs; send this one again when they are answered."
UNEXPECTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    SyntaxError,
)  # beside what `in_a_sentence` takes

Fields: TypeAlias = Mapping[str, bytes]


class Reply(NamedTuple):
    """A status and its page."""

    status: int
    page: Page


class Server(ThreadingHTTPServer):
    """Serves a form, and what it is answered with.

    Args:
        port: on the loopback address; 0 takes one that is free.
        form: the page at `/`.
        explain: makes the answer to the fields of the form.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, port: int, form: Page, explain: Callable[[Fields], Page]) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.form, self.explain = form, explain
        self.waiting: Queue[tuple[Fields, Future[Reply]]] = Queue(maxsize=1)

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def server_bind(self) -> None:
        """Bind, without the look-up of this machine's name that `HTTPServer` does and that may leave the machine."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def serve(self) -> None:
        """Answer until an exception, such as that of Ctrl-C, ends it."""
        Thread(target=self.serve_forever, daemon=True).start()
        try:
            while True:
                fields, future = self.waiting.get()
                future.set_result(self._reply(fields))
        finally:
            self.shutdown()
            self.server_close()

    def ask(self, fields: Fields) -> Reply:
        """What `explain` makes of the fields, when its turn has come."""
        future: Future[Reply] = Future()
        try:
            self.waiting.put_nowait((fields, future))
        except Full:
            return refusal(503, BUSY)
        return future.result()

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            traceback.print_exc()

    def _reply(self, fields: Fields) -> Reply:
        try:
            with in_a_sentence(CANNOT):
                return Reply(200, self.explain(fields))
        except SystemExit as mistake:
            return refusal(422, str(mistake.code))
        except UNEXPECTED as error:
            traceback.print_exc()
            return refusal(500, f"{CANNOT}, for an error of hf_tanhmax: {type(error).__name__}: {error}; the terminal shows where")


class Handler(BaseHTTPRequestHandler):
    """One request of a `Server`."""

    server: Server
    timeout = PATIENCE
    server_version = "hf_tanhmax"
    sys_version = ""

    def do_GET(self) -> None:
        """The form."""
        self._send(self._foreign() or (Reply(200, self.server.form) if self.path == "/" else refusal(404, "There is no such page.")))

    def do_POST(self) -> None:
        """The answer to a form."""
        own = (self.headers.get("Origin") or "") == f"http://{self.headers.get('Host')}"
        strange = None if own else refusal(403, "Only the page of this demo may send inputs to it.")
        self._send(self._foreign() or strange or self._answer())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Inputs are nobody's business, not even the terminal's."""

    def _foreign(self) -> Reply | None:
        """A refusal of a request that was meant for another host."""
        port = self.server.server_port
        if self.headers.get("Host") in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            return None
        return refusal(403, f"This page is at {self.server.address}, under no other name.")

    def _answer(self) -> Reply:
        if self.path != "/":
            return refusal(404, "There is no such page.")
        length = self.headers.get("Content-Length") or ""
        if not length.isdecimal() or len(length) > DIGITS:
            return refusal(411, "The request does not say how long it is.")
        if int(length) > LARGEST:
            self._skip(min(int(length), SKIPPED))
            return refusal(413, f"The input is larger than {LARGEST / 2**20:g} MiB; send a smaller one.")
        boundary = self.headers.get_boundary()
        body = self.rfile.read(int(length))
        if boundary is None or len(body) != int(length):
            return refusal(400, "The request is no form, or ended early.")
        return self.server.ask(form_fields(body, boundary))

    def _skip(self, length: int) -> None:
        while length > 0 and (read := self.rfile.read(min(length, 2**16))):
            length -= len(read)

    def _send(self, reply: Reply) -> None:
        body = reply.page.html.encode()
        self.send_response(reply.status)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": reply.page.policy,
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Referrer-Policy": "same-origin",  # with no-referrer the form would come from the origin "null"
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def refusal(status: int, sentence: str) -> Reply:
    """A status with a page that says why."""
    return Reply(status, sentence_page(sentence))


def form_fields(body: bytes, boundary: str) -> dict[str, bytes]:
    """The fields of a form that was sent as multipart/form-data, by their names; a file is its bytes."""
    found = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if name := re.search(rb'[ ;]name="([^"]*)"', head):
            found[name[1].decode("utf-8", "replace")] = content
    return found
