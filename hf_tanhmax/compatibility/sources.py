"""The source of installed packages, as syntax trees: what is read is not imported, so releases can be compared in one process."""

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MEMBER = re.compile(r"([\w.]+)(?:\((\w+)\))?")


@dataclass(frozen=True)
class Release:
    """One release of Transformers, and the packages installed with it.

    Attributes:
        version: of Transformers.
        packages: the folder of each package that there is.
    """

    version: str
    packages: dict[str, Path] = field(repr=False)

    def text(self, package: str, path: str) -> str | None:
        """The source of one file; None if there is no such package or file."""
        file = self.packages[package] / path if package in self.packages else None
        return file.read_text(encoding="utf-8") if file is not None and file.is_file() else None

    def tree(self, package: str, path: str) -> ast.Module | None:
        """The syntax tree of one file; None if there is none."""
        text = self.text(package, path)
        return None if text is None else _parsed(text)

    def has(self, package: str, path: str, name: str) -> bool:
        """Whether a file defines a name.

        Args:
            package: name of the package.
            path: of the file inside of it.
            name: `function`, `Class`, `Class.member` or either with `(parameter)`; or, in double quotes, a text that the file holds.
        """
        if name.startswith('"'):
            return name.strip('"') in (self.text(package, path) or "")
        tree, (dotted, parameter) = self.tree(package, path), _split(name)
        found = [] if tree is None else list(_definitions(tree, dotted))
        return bool(found) if parameter is None else any(parameter in parameters_of(node) for node in found)

    def modelling(self) -> Iterator[tuple[str, str]]:
        """Architecture and source of every modelling file that has attention functions chosen for it."""
        for file in sorted((self.packages["transformers"] / "models").glob("*/modeling_*.py")):
            text = file.read_text(encoding="utf-8")
            if "ALL_ATTENTION_FUNCTIONS" in text:
                yield file.parent.name, text


def installed(names: tuple[str, ...]) -> Release:
    """The packages of this environment, of those that are named.

    Raises:
        ValueError: Transformers is not among them, or has no version.
    """
    found = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found[name] = Path(spec.origin).parent
    return _release(found)


def in_folder(folder: Path, names: tuple[str, ...]) -> Release:
    """The packages in a folder: what `pip install --target` fills, the package `transformers` itself, or its unpacked source.

    Raises:
        ValueError: there is no Transformers in it.
    """
    for place in (folder, folder / "src", folder.parent if folder.name == "transformers" else folder):
        if (place / "transformers" / "modeling_utils.py").is_file():
            return _release({name: place / name for name in names if (place / name).is_dir()})
    raise ValueError(f"{folder} holds no transformers; give the folder of `pip install --no-deps --target FOLDER transformers==VERSION`")


def parameters_of(node: ast.AST) -> set[str]:
    """The names of what a function takes; none for anything else."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return set()
    return {each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}


def _release(packages: dict[str, Path]) -> Release:
    if "transformers" not in packages:
        raise ValueError("transformers is not installed")
    found = re.search(r'^__version__ = "([^"]+)"', (packages["transformers"] / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{packages['transformers']} does not say its version")
    return Release(found.group(1), packages)


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _split(name: str) -> tuple[str, str | None]:
    found = MEMBER.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is no name of a definition")
    return found.group(1), found.group(2)


def _definitions(scope: ast.AST, dotted: str) -> Iterator[ast.AST]:
    """The statements that give a name its meaning, in a module or class and the conditions in it."""
    name, _, rest = dotted.partition(".")
    for node in _statements(scope):
        if name in _bound(node):
            if not rest:
                yield node
            elif isinstance(node, ast.ClassDef):
                yield from _definitions(node, rest)
    if isinstance(scope, ast.ClassDef) and not rest:  # or an attribute that a method gives to the object
        for node in ast.walk(scope):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == name:
                yield node


def _statements(scope: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _statements(node)
        else:
            yield node


def _bound(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()
