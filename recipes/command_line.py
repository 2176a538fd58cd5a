"""The parser of every recipe that is run with `python -m`."""

import argparse
from typing import Any


class Parser(argparse.ArgumentParser):
    """Its help keeps the line breaks of the description, which is the docstring of a module."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})
