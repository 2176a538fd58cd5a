"""This package as one file, `modeling_tanhmax.py`, which is published with every checkpoint.

Transformers runs that file where the package is not installed (`trust_remote_code=True`). It wants one file: of several, it would make
each class twice. So the modules are joined in the order of their layers, as they stand, for whoever is to trust the file and reads it
first. Their imports are gathered at the top. Nothing is renamed, since a name means one thing in the whole package; where that fails, no
file is written. The file differs from the package in this:

* operators and attention functions are named by its digest and a number, so that any versions and copies get along in one process: to
  register an operator again is to destroy the one that is in use;
* the C++ code stands in it as text;
* modules that import Triton stand behind a condition;
* what it saves beside a model is itself.

It is the same file beside every checkpoint: it brings attention, kernels and what puts them into a model, and the class of no architecture.
Those of the checkpoint's are made from the ones of the installed Transformers when they are asked for by name (`models.architectures`), and
nothing is made for any other. It registers the heads of each config class, but no model type: a type would be found by its name, in
whichever file said it last.
"""

import ast
import builtins
import functools
import hashlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

CODE_FILE = "modeling_tanhmax.py"
PACKAGE = Path(__file__).parents[1]

# From low to high.
MODULES = (
    "functional",
    "settings",
    "attention/mask",
    "attention/paged_cache",
    "attention/call",
    "attention/sharing",
    "attention/reference",
    "attention/composed/aten_kernels",
    "attention/composed/identities",
    "attention/composed/balanced",
    "attention/portable",
    "attention/cpu/problem",
    "attention/cpu/blocked",
    "attention/cpu/balanced",
    "attention/cpu/compiler",
    "attention/cpu/build",
    "attention/cpu/sizes",
    "attention/cpu/operator",
    "attention/kernels/support",
    "attention/kernels/schedule",
    "attention/kernels/primitives",
    "attention/kernels/masks",
    "attention/kernels/layout",
    "attention/kernels/tuned",
    "attention/kernels/shift",
    "attention/kernels/balanced",
    "attention/kernels/forward",
    "attention/kernels/backward",
    "attention/kernels/decode",
    "attention/kernels/interpreter",
    "attention/kernels/launch",
    "attention/kernels/launch_decode",
    "attention/ops",
    "attention/api",
    "integration/serving",
    "integration/registration",
    "integration/model_names",
    "integration/detection/dataflow",
    "integration/detection/forward_source",
    "integration/detection/attention_facts",
    "integration/chosen_modules",
    "integration/patching",
    "models/family",
    "models/architectures",
)

HEADER = '''\
"""TanhMax attention for Hugging Face Transformers: the code of this checkpoint, in one file.

It is run by `from_pretrained(..., trust_remote_code=True)` where hf_tanhmax is not installed; where it is imported, this file is not used.
hf_tanhmax writes it from its own modules whenever a model is saved, so do not edit it. Licence: Apache-2.0.
"""

VERSION = "{version}"
DIGEST = "{digest}"  # sha256 of what follows this line
'''

# Before the imports: of most of them an older Transformers would say no more than that it has no such thing.
CHECK = """
import transformers

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 17):
    raise ImportError(f"this checkpoint needs transformers 5.17 or newer, but {transformers.__version__} is installed")
"""

# What stands for this module.
PRELUDE = '''\
from pathlib import Path

CODE_FILE = "modeling_tanhmax.py"


def source() -> str:
    """This file, to be saved beside a model that it loaded."""
    return Path(__file__).read_bytes().decode()
'''

PACKAGES_NAMESPACE = 'NAMESPACE = "hf_tanhmax"\n'
OWN_NAMESPACE = """\
import itertools
# This file is run once for every checkpoint that brings it, and the operators of one run must not be taken away by the next.
NAMESPACES = (f"hf_tanhmax_{DIGEST[:8]}_{count}" for count in itertools.count())
NAMESPACE = next(name for name in NAMESPACES if not hasattr(getattr(torch.ops, name), "fused_attention"))
"""

EPILOGUE = """\
register_attention()
"""

READ_FILE = re.compile(r'Path\(__file__\)\.with_name\("(.+)"\)\.read_text\(encoding="utf-8"\)')

# Packages that may be absent, and behind what the modules that import them stand.
TRITON = {
    "triton": """\
if triton_missing() is None:
    # Not by import statements: Transformers has everybody install whatever a file imports.
"""
}


@functools.cache
def source() -> str:
    """The text of the file.

    Raises:
        ValueError: a name that means one thing in one module and another in another.
    """
    body = _body()
    return HEADER.format(version=own_version(), digest=digest(body)) + body


def own_version() -> str:
    """The version of this package."""
    return re.findall(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[0]


def digest(body: str) -> str:
    """What a file's header says of the text that follows it."""
    return hashlib.sha256(body.encode()).hexdigest()


def _body() -> str:
    return f"{CHECK}\n{joined(MODULES, prelude=PRELUDE, conditions=TRITON)}\n\n\n{EPILOGUE}"


def joined(modules: Iterable[str], *, conditions: Mapping[str, str], prelude: str = "") -> str:
    """Modules as one text: their imports at its top, then what else they say, in their order.

    Args:
        modules: paths in this package, without their ending; each imports others of them that come before it.
        conditions: packages that may be absent, and a statement, such as `if ...:`, behind which modules stand that import them.
        prelude: what comes before them.

    Raises:
        ValueError: a name that means one thing in one module and another in another.
    """
    texts = {f"hf_tanhmax/{name}.py": text_of(name) for name in modules}
    _refuse_clashes({"the prelude": prelude, **texts})
    imports = {"import importlib", *_imports(prelude)}
    sections = [_without_imports(prelude)] if prelude else []

    def _condition(name: str) -> str | None:
        return next((package for line in _imports(texts[name]) if (package := _package(line)) in conditions), None)

    for package, names in groupby(texts, _condition):
        found = [(name, texts[name]) for name in names]
        lines = {line for _, text in found for line in _imports(text)}
        imports |= {line for line in lines if _package(line) not in conditions}
        section = "\n\n\n".join(f"# {name}\n{_without_imports(text)}" for name, text in found)
        if package is not None:
            bindings = "\n".join(_binding(line) for line in sorted(lines) if _package(line) in conditions)
            section = conditions[package] + textwrap.indent(f"{bindings}\n\n{section}", "    ")
        sections.append(section)
    return "\n\n\n".join([_gathered(imports), *sections])


def text_of(module: str) -> str:
    """A module as the file has it, imports included: with names of its own, and for a file that it reads, the text of that file."""
    path = PACKAGE / f"{module}.py"
    text = path.read_text(encoding="utf-8").replace(PACKAGES_NAMESPACE, OWN_NAMESPACE)
    return READ_FILE.sub(lambda read: f'r"""{path.with_name(read[1]).read_text(encoding="utf-8")}"""', text)


def _refuse_clashes(texts: dict[str, str]) -> None:
    """A name must mean the same in all modules that have it at their top: one definition, or one import."""
    meanings = {name: "Python" for name in dir(builtins) if not name.startswith("_")}
    for module, text in texts.items():
        imported = {_bound_by(line): line for line in _imports(text)}
        for name in sorted({*imported, *_bound_in(ast.parse(text))}):
            meaning = imported.get(name, module)
            if meanings.setdefault(name, meaning) != meaning:
                raise ValueError(f"{name!r} means one thing in {meanings[name]} and another in {meaning}; rename one of them")


def _bound_in(node: ast.AST) -> Iterator[str]:
    """The names that the statements of a module bind, but for imports and what is bound within functions, classes and comprehensions.

    `symtable` is of no use for it: from Python 3.12 on it takes the variables of comprehensions for the module's.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif not isinstance(child, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            if isinstance(child, ast.ExceptHandler) and child.name is not None:
                yield child.name
            yield from _bound_in(child)


@functools.cache
def _imports(text: str) -> tuple[str, ...]:
    """The absolute imports at the top of a module, one name per line."""
    found: list[str] = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
            origin = f"from {node.module} import" if isinstance(node, ast.ImportFrom) else "import"
            found += [f"{origin} {alias.name}" + (f" as {alias.asname}" if alias.asname else "") for alias in node.names]
    return tuple(found)


def _without_imports(text: str) -> str:
    """A module without its imports; those of other packages inside of functions stay."""
    tree, lines = ast.parse(text), text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and (node in tree.body or bool(getattr(node, "level", 0))):
            for row in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[row] = ""
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip("\n")


def _package(line: str) -> str:
    """The package that an import of one name is from."""
    return line.split()[1].split(".")[0]


def _bound_by(line: str) -> str:
    """The name that an import of one name binds."""
    return line.split()[-1] if " as " in line or line.startswith("from ") else line.split()[-1].split(".")[0]


def _binding(line: str) -> str:
    """An import of one name as an assignment."""
    words = line.split()
    attribute = f".{words[3]}" if words[0] == "from" else ""
    return f'{_bound_by(line)} = importlib.import_module("{words[1]}"){attribute}'


def _gathered(imports: set[str]) -> str:
    """Imports, those from one module in one statement."""
    plain = sorted(line for line in imports if line.startswith("import "))
    origins: dict[str, list[str]] = {}
    for line in sorted(imports.difference(plain)):
        origin, name = line.removeprefix("from ").split(" import ")
        origins.setdefault(origin, []).append(name)
    return "\n".join([*plain, *(f"from {origin} import {_listed(names)}" for origin, names in origins.items())])


def _listed(names: list[str]) -> str:
    one_line = ", ".join(names)
    return one_line if len(one_line) < 100 else "(\n" + "".join(f"    {name},\n" for name in names) + ")"
