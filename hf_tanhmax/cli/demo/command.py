"""`hf-tanhmax demo MODEL`: load a checkpoint, open the page, and answer it until Ctrl-C."""

import argparse
import sys
import webbrowser
from threading import Thread

from ...choices import ALL
from ...interpret.inputs.loading import load
from ..checks import in_a_sentence
from ..explain_commands import all_methods
from .answers import Demo
from .server import Server


def run_demo(options: argparse.Namespace) -> int:
    """Serve the page of one model on this machine; Ctrl-C is how it ends, so that is no failure."""
    with in_a_sentence(f"cannot show {options.model}"):
        loaded = load(options.model, revision=options.revision, device=options.device)
        methods = all_methods(loaded.model) if options.methods == [ALL] else options.methods
        demo = Demo(loaded, methods=methods, steps=options.steps, max_length=options.max_length)
        server = Server(options.port, demo.form(), demo.explained)
    print(f"{type(loaded.model).__name__} answers at {server.address}, on this machine alone; Ctrl-C ends it", flush=True)
    if not options.no_browser:
        # A browser in a terminal returns only when it is left.
        Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
    try:
        server.serve()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0
