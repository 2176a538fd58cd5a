"""`hf-tanhmax demo` as a program, and its page in a browser."""

import re
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from browser import chromium
from command_line import refused
from image_processors import load_images
from PIL import Image
from saved_models import save_model

from hf_tanhmax.cli.arguments import main
from hf_tanhmax.cli.checks import QUICK
from hf_tanhmax.cli.demo import command
from hf_tanhmax.interpret import methods_for
from hf_tanhmax.interpret.inputs.loading import load


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("bert", "vit"):
        save_model(folder / family, family)
    Image.linear_gradient("L").resize((15, 15)).convert("RGB").save(folder / "picture.png")
    return folder


@contextmanager
def started(model, *more):
    """The program with the address of its page; Ctrl-C must end it well."""
    program = [sys.executable, "-m", "hf_tanhmax.cli", "demo", str(model), "--no-browser", "--methods", "contributions", *more]
    # Who runs the tests in the background ignores SIGINT, and what it starts would too.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    try:
        said = process.stdout.readline()
        assert "on this machine alone; Ctrl-C ends it" in said, process.stderr.read()
        yield re.search(r"http://127\.0\.0\.1:\d+/", said)[0]
        process.send_signal(signal.SIGINT)
        assert (process.wait(60), process.stderr.read().splitlines()[-1]) == (0, "stopped")
    finally:
        process.kill()
        process.communicate()


@contextmanager
def visited(address):
    """A tab that shows an address, all that it asks for, and all that it complains of."""
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(60_000)
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        yield page, asked, complaints


def answer_in(page):
    """The frame with the evidence, once it shows it."""
    page.wait_for_selector("button:not([disabled])")
    frame = page.frame(name="answer")
    frame.wait_for_function("() => document.documentElement.dataset.shown")
    return frame


@pytest.mark.slow
def test_a_sentence_in_the_browser(models):
    with started(models / "bert") as address, visited(address) as (page, asked, complaints):
        page.fill("textarea", "not funny at all")
        page.press("textarea", "Enter")
        assert "funny" in answer_in(page).inner_text("main")
        page.select_option("select", "1")
        page.click("button")
        page.wait_for_function("() => !document.querySelector('button').disabled")
        assert answer_in(page).inner_text("#target") == "“LABEL_1”"
        page.evaluate("document.querySelector('textarea').value = 'a'.repeat(6000)")
        page.click("button")
        page.frame_locator("iframe").locator(".sentence").wait_for()
        sentence = page.frame(name="answer").inner_text(".sentence")
        assert sentence == "This input cannot be explained: the text has 6,000 characters, and at most 5,000 are read here"
        assert page.inner_text("#said") == ""
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {address}
        assert [text for text in complaints if "422" not in text] == []  # which is the sentence's status


@pytest.mark.slow
@load_images
def test_an_image_in_the_browser(models):
    with started(models / "vit") as address, visited(address) as (page, asked, complaints):
        page.set_input_files("input[type=file]", models / "picture.png")
        assert answer_in(page).query_selector("main") is not None
        page.goto(address)
        dropped = page.evaluate_handle(
            """bytes => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
                return data;
            }""",
            list((models / "picture.png").read_bytes()),
        )
        page.dispatch_event("body", "drop", {"dataTransfer": dropped})
        assert answer_in(page).query_selector("main") is not None
        page.evaluate("document.querySelector('form').dataset.largest = 4100")
        page.set_input_files("input[type=file]", models / "picture.png")
        assert "MiB; choose a smaller one." in page.inner_text("#said")
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {address}
        assert complaints == []


class Stranger(BaseHTTPRequestHandler):
    """Another site, which tries to use the demo: by a form, by a script, and in a frame."""

    target = ""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(
            f"""<form method="post" action="{self.target}" enctype="multipart/form-data"><input name="text" value="secret"></form>
            <iframe src="{self.target}"></iframe>""".encode()
        )

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_another_site_gets_nothing(models):
    with started(models / "bert") as address, ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        Stranger.target = address
        Thread(target=stranger.serve_forever, daemon=True).start()
        with visited(f"http://127.0.0.1:{stranger.server_port}/") as (page, _, complaints):
            read = (
                "fetch(target, { method: 'POST', body: new FormData(document.querySelector('form')) }).then(() => 'read', () => 'refused')"
            )
            assert page.evaluate(f"target => {read}", address) == "refused"
            assert any("frame-ancestors" in text for text in complaints)
            with page.expect_navigation():
                page.evaluate("document.querySelector('form').submit()")
            assert page.inner_text(".sentence") == "Only the page of this demo may send inputs to it."
        stranger.shutdown()


def test_the_browser_is_opened(models, monkeypatch, capsys):
    opened = []

    methods = []

    class Ended:
        address = "http://127.0.0.1:1/"

        def __init__(self, port, form, explained):
            methods.append(explained.__self__.chosen["methods"])

        def serve(self):
            raise KeyboardInterrupt

    class AtOnce(Thread):
        def start(self):
            self.run()

    monkeypatch.setattr(command, "Server", Ended)
    monkeypatch.setattr(command, "Thread", AtOnce)
    monkeypatch.setattr(command.webbrowser, "open", opened.append)
    given = ["demo", str(models / "bert")]
    assert main(given) == main([*given, "--no-browser"]) == main([*given, "--no-browser", "--methods", "all"]) == 0
    assert methods[0] == methods[1] == QUICK
    assert methods[2] == methods_for(load(str(models / "bert")).model)
    assert opened == ["http://127.0.0.1:1/"]
    assert capsys.readouterr().out.startswith("TanhMaxBertForSequenceClassification answers at http://127.0.0.1:1/, on this machine alone")


def test_mistakes(models, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert refused(capsys, "demo", "m", "--port", str(port)).startswith(f"error: cannot show m: port {port} cannot be had (")
    assert refused(capsys, "demo", "m", "--port", "70000").startswith("error: argument --port: must be a whole number from 0")
    assert refused(capsys, "demo", "m", "--methods", "luck").startswith("error: cannot show m: there is no method 'luck'; choose from")
    assert refused(capsys, "demo", "./gone").startswith("error: cannot show ./gone: there is no such folder")
    assert refused(capsys, "demo", str(tmp_path / "empty")).startswith(f"error: cannot show {tmp_path / 'empty'}: ")
