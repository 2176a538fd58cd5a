"""The code file that is published with a checkpoint: writing it, and checking whether one that was found is unaltered.

python -m hf_tanhmax.models.remote_code PATH    # write the file of this version
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from . import family
from .architectures import config_of, nearest_type, upstream_type
from .bundle import CODE_FILE, digest, own_version, source

__all__ = ["CODE_FILE", "auto_map", "source", "verdict"]


def auto_map(model_type: str, architectures: Iterable[str] = ()) -> dict[str, str]:
    """Which class of the file each Auto class loads: what a config.json of this model type says.

    Args:
        model_type: such as `"tanhmax_bert"`.
        architectures: the classes that the config.json names; they decide where an Auto class has several.

    Raises:
        ValueError: not a TanhMax model type.
    """
    upstream = upstream_type(model_type)
    if upstream is None:
        raise ValueError(f"{model_type!r} is no TanhMax model type, such as tanhmax_bert; {nearest_type(model_type)}")
    return family.auto_map(config_of(upstream), architectures)


def verdict(text: str) -> str | None:
    """What is wrong with a file of code that lies beside a checkpoint; None if it is what this version writes.

    A file of another version still runs; an altered one may do anything.
    """
    own, mend = _parts(source()), "save the model anew to replace it"
    found = _parts(text)
    if found is None or own is None:
        return f"{CODE_FILE} is not a file that hf_tanhmax wrote; {mend}"
    version, said, body = found
    if said != digest(body) or (found == own and text != source()):
        return f"{CODE_FILE} was altered after hf_tanhmax {version} wrote it; {mend}"
    if version != own_version():
        return f"{CODE_FILE} says that hf_tanhmax {version} wrote it, and this is {own_version()}; {mend}"
    if found != own:
        return f"{CODE_FILE} says that hf_tanhmax {version} wrote it, but is not what this {version} writes; {mend}"
    return None


def _parts(text: str) -> tuple[str, ...] | None:
    """Version, digest and body of a file that looks like one of ours."""
    found = re.search(r'^VERSION = "([^"\n]+)"\nDIGEST = "([0-9a-f]{64})"[^\n]*\n', text, re.MULTILINE)
    return None if found is None else (*found.groups(), text[found.end() :])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m hf_tanhmax.models.remote_code PATH")
    Path(sys.argv[1]).write_bytes(source().encode())
