"""The `hf-tanhmax` program, which answers `--help` at once.

Importing `hf_tanhmax` registers its models, and so imports torch and Transformers, which takes seconds. So `hf_tanhmax/cli.py` is loaded
here without its package, which its commands import when they need it.
"""

import sys
from importlib import util
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """What `hf_tanhmax.cli.main` does."""
    package = util.find_spec("hf_tanhmax")  # finds it, and does not import it
    spec = util.spec_from_file_location("hf_tanhmax.cli", Path(str(package and package.origin)).with_name("cli.py"))
    if spec is None or spec.loader is None:
        raise ImportError("hf_tanhmax has no cli.py; install hf-tanhmax again")
    module = sys.modules.setdefault(spec.name, util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return int(module.main(arguments))
