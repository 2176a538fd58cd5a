"""The C++ text: what it may be, and that it and its Python side speak of the same structure."""

import re

from hf_tanhmax.attention.cpu.operator import NativeCall
from hf_tanhmax.attention.cpu.source import SOURCE


def test_it_stays_small():
    assert len(SOURCE.splitlines()) < 400
    assert max(map(len, SOURCE.splitlines())) <= 140


def test_the_structure_has_the_same_fields_on_both_sides():
    """By name, order and kind; a field too many or two in another order would be read as something else."""
    body = re.sub(r"//.*", "", re.search(r"struct Call \{(.*?)\n\};", SOURCE, re.DOTALL)[1])
    fields = []
    for declaration in filter(str.strip, body.split(";")):
        kind = re.match(r"\s*(?:const )?(\w+)", declaration)[1]
        for name in re.sub(r"^\s*(?:const )?\w+", "", declaration).split(","):
            pointer, bare, count = re.fullmatch(r"\s*(\*?)(\w+)(?:\[(\d)\])?\s*", name).groups()
            fields.append((bare, "pointer" if pointer else kind if count is None else f"{kind}[{count}]"))
    names = {"c_void_p": "pointer", "c_long": "int64_t", "c_double": "double"}
    names |= {f"c_long_Array_{count}": f"int64_t[{count}]" for count in (2, 3, 4)}
    assert fields == [(name, names[kind.__name__]) for name, kind in NativeCall._fields_]
