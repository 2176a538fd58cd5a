"""The server of the demo over real HTTP: whom it answers, how much it takes, and one input at a time."""

import http.client
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from hf_tanhmax.cli.demo import server as server_module
from hf_tanhmax.cli.demo.pages import Page
from hf_tanhmax.cli.demo.server import BUSY, Server, form_fields

STOP = {"stop": b""}
BOUNDARY = "----7MA4YWxk"


@contextmanager
def served(explain):
    """A server that is asked from this process; `explain` is not reached by the request that ends it."""

    def unless_stopped(fields):
        if fields is STOP:
            raise KeyboardInterrupt
        return explain(fields)

    server = Server(0, Page("the form", "default-src 'none'"), unless_stopped)

    def serve():
        with suppress(KeyboardInterrupt):
            server.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    yield server
    server.waiting.put((STOP, Future()))
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.server_port), 1)


def multipart(fields):
    parts = (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value for name, value in fields.items())
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def asked(server, method="GET", path="/", *, body=None, drop=(), **headers):
    """Status, headers and text of an answer; `Host` and `Origin` are those of the page unless they are given or dropped."""
    usual = {"Host": f"127.0.0.1:{server.server_port}"}
    if method == "POST":
        usual |= {"Origin": server.address.rstrip("/"), "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        usual["Content-Length"] = str(len(body or b""))
    sent = {name: value for name, value in {**usual, **headers}.items() if name not in drop}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    reply = connection.getresponse()
    return reply.status, dict(reply.getheaders()), reply.read().decode()


def echo(fields):
    return Page(repr(sorted(fields.items())), "sandbox")


def test_a_form_and_its_answer():
    with served(echo) as server:
        status, headers, text = asked(server)
        assert (status, text, headers["Content-Security-Policy"]) == (200, "the form", "default-src 'none'")
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
        assert not {name.lower() for name in headers} & {"access-control-allow-origin", "set-cookie"}
        fields = {"text": "not “funny”\r\nat all".encode(), "image": bytes(range(256)) + b"\r\n--"}
        status, headers, text = asked(server, "POST", body=multipart(fields))
        assert (status, text, headers["Content-Security-Policy"]) == (200, repr(sorted(fields.items())), "sandbox")


def test_it_listens_on_this_machine_alone():
    with served(echo) as server:
        assert server.socket.getsockname() == ("127.0.0.1", server.server_port)
        assert server.address == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "evil.example:PORT", "127.0.0.1:PORT.evil.example", "[::1]:PORT", None])
def test_another_name_for_this_machine_is_refused(method, host):
    with served(pytest.fail) as server:
        given = {} if host is None else {"Host": host.replace("PORT", str(server.server_port))}
        origin = {"Origin": f"http://{given.get('Host')}"} if method == "POST" else {}
        status, _, text = asked(server, method, body=multipart({"text": b"x"}), drop=("Host",) if host is None else (), **given, **origin)
        assert status == 403
        assert f"This page is at {server.address}, under no other name." in text
        assert asked(server, Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1", None])
def test_the_form_of_another_site_is_refused(origin):
    with served(pytest.fail) as server:
        given = {"drop": ("Origin",)} if origin is None else {"Origin": origin}
        status, _, text = asked(server, "POST", body=multipart({"text": b"x"}), **given)
        assert (status, "Only the page of this demo may send inputs to it." in text) == (403, True)


def test_too_much_is_refused_and_so_is_what_is_no_form(monkeypatch):
    monkeypatch.setattr(server_module, "LARGEST", 2**20)
    monkeypatch.setattr(server_module, "SKIPPED", 2**22)
    with served(pytest.fail) as server:
        status, _, text = asked(server, "POST", body=multipart({"image": bytes(3 * 2**20)}))
        assert (status, "The input is larger than 1 MiB; send a smaller one." in text) == (413, True)
        for status, given in (
            (404, {"path": "/other", "body": multipart({"text": b"x"})}),
            (411, {"body": b"", "drop": ("Content-Length",)}),
            (411, {"body": b"", "Content-Length": "-5"}),
            (411, {"body": b"", "Content-Length": "9" * 5000}),
            (400, {"body": b"text=x", "Content-Type": "application/x-www-form-urlencoded"}),
        ):
            assert asked(server, "POST", **given)[0] == status
        assert asked(server, path="/favicon.ico")[0] == 404
        assert asked(server, "PUT")[0] == 501


def test_a_request_that_does_not_go_on_is_given_up(monkeypatch):
    assert 0 < server_module.Handler.timeout <= 60
    monkeypatch.setattr(server_module.Handler, "timeout", 0.2)
    with served(pytest.fail) as server:
        with socket.create_connection(("127.0.0.1", server.server_port), 20) as silent:
            assert silent.recv(1) == b""
        with socket.create_connection(("127.0.0.1", server.server_port), 20) as half:
            half.sendall(f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nOrigin: {server.address[:-1]}\r\n".encode())
            half.sendall(b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 99\r\n\r\n--x")
            assert half.recv(1) == b""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("no text came; type a sentence"), 422, "This input cannot be explained: no text came; type a sentence"),
        (RuntimeError("out of memory <b>"), 422, "This input cannot be explained: out of memory &lt;b&gt;"),
        (KeyError("gone"), 500, "for an error of hf_tanhmax: KeyError: &#39;gone&#39;; the terminal shows where"),
    ],
)
def test_an_error_is_a_sentence_and_the_next_input_is_answered(error, status, said, capsys):
    replies = [error, None]

    def explain(_):
        if found := replies.pop(0):
            raise found
        return Page("well", "sandbox")

    with served(explain) as server:
        found, headers, text = asked(server, "POST", body=multipart({"text": b"x"}))
        assert (found, said in text) == (status, True)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert asked(server, "POST", body=multipart({"text": b"x"}))[2] == "well"
    assert ("Traceback" in capsys.readouterr().err) == (status == 500)


def test_one_at_a_time_one_waits_and_more_are_refused():
    begun, go_on, running = threading.Event(), threading.Event(), []

    def explain(fields):
        running.append(len(running))
        begun.set()
        go_on.wait(20)
        return Page("done", "sandbox")

    with served(explain) as server, ThreadPoolExecutor(2) as pool:
        body = multipart({"text": b"x"})
        first = pool.submit(asked, server, "POST", body=body)
        begun.wait(20)
        second = pool.submit(asked, server, "POST", body=body)
        while server.waiting.empty():
            time.sleep(0.01)
        assert running == [0]
        status, _, text = asked(server, "POST", body=body)
        assert (status, BUSY in text) == (503, True)
        assert asked(server)[0] == 200  # the form is there all the while
        go_on.set()
        assert [reply.result(20)[2] for reply in (first, second)] == ["done", "done"]


def test_a_port_that_is_taken():
    with served(echo) as server, pytest.raises(OSError, match="in use"):
        Server(server.server_port, Page("", ""), echo)


def test_fields_of_a_form():
    body = b'--b\r\nContent-Disposition: form-data; name="a"; filename="name=x"\r\nContent-Type: image/png\r\n\r\n1\r\n2\r\n--b--\r\n'
    assert form_fields(body, "b") == {"a": b"1\r\n2"}
    assert form_fields(b"", "b") == form_fields(b"--b--\r\n", "b") == form_fields(b"--b\r\nContent-Type: x\r\n\r\n1\r\n--b--", "b") == {}
