"""`transformers serve` for a TanhMax checkpoint.

    python -m hf_tanhmax.cli.serve MODEL [options of transformers serve]

`transformers serve` knows no Auto classes: it takes the class that a config names out of `transformers` itself, where those of TanhMax are
not, and ends there. This puts the one that MODEL needs there, in this process, and calls it.
"""

import sys
from importlib import import_module
from pathlib import Path

import transformers

from ..checkpoint import CheckpointError, class_of
from ..errors import one_line
from ..models.family import TanhMaxFields
from .arguments import MISTAKE
from .checks import LONGEST

USAGE = "usage: python -m hf_tanhmax.cli.serve MODEL [options of transformers serve]"


def main(arguments: list[str]) -> int:
    """Serve a checkpoint until the process is stopped.

    Args:
        arguments: the folder or Hub name of a TanhMax model, and options of `transformers serve`.

    Returns:
        2 for a mistake in what was given, which is printed in one sentence.
    """
    if not arguments or arguments[0].startswith("-"):
        return _mistake(USAGE)
    try:
        config: transformers.PreTrainedConfig = transformers.AutoConfig.from_pretrained(arguments[0])
        if not isinstance(config, TanhMaxFields):
            return _mistake(f"{arguments[0]} is of model type {config.model_type!r}, no TanhMax model: `transformers serve` serves it")
        cls = class_of(config, Path(arguments[0]))[1]
    except (CheckpointError, OSError, ValueError) as error:
        return _mistake(one_line(error, LONGEST))
    try:
        from transformers.cli.transformers import main as transformers_main
        from transformers.utils.import_utils import is_serve_available
    except ImportError as error:
        return _mistake(f'Transformers {transformers.__version__} cannot serve ({one_line(error)}): pip install "transformers[serving]"')
    if not is_serve_available():
        return _mistake('serving needs more packages: pip install "transformers[serving]"')
    # Transformers replaces its own module while its model classes are imported; `transformers` above may be the first one still.
    setattr(import_module("transformers"), cls.__name__, cls)
    sys.argv = ["transformers", "serve", *arguments]
    transformers_main()
    return 0


def _mistake(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return MISTAKE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
