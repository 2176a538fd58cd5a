"""Reports what a release of Transformers changes for this package.

python -m hf_tanhmax.compatibility                     # of the installed release
python -m hf_tanhmax.compatibility --against FOLDER    # and what differs in the one that `pip install --no-deps --target FOLDER` put there

The exit status is 1 if anything that this package leans on is gone, or if attention functions are handed something that it does not know.
Reading all modelling files takes about half a minute per release.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .dependencies import PACKAGES, missing
from .interface import Interface, meaning, read_interface
from .sources import Release, in_folder, installed


def main(arguments: list[str] | None = None) -> int:
    """Print the report; returns the exit status.

    Args:
        arguments: what follows the name of the module; None takes it from the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m hf_tanhmax.compatibility", description="What a release of Transformers changes here.")
    parser.add_argument("--against", metavar="FOLDER", type=Path, help="a folder that holds another release of Transformers")
    options = parser.parse_args(arguments)
    releases = [installed(PACKAGES)]
    if options.against is not None:
        try:
            releases.append(in_folder(options.against, PACKAGES))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        releases.sort(key=lambda release: [int(part) for part in release.version.split(".")[:2]])
    interfaces = [read_interface(release) for release in releases]
    faults = [fault for pair in zip(releases, interfaces, strict=True) for fault in faults_of(*pair)]
    for release, interface in zip(releases, interfaces, strict=True):
        print(summary(release, interface))
    if len(releases) == 2:
        print("\n".join(changes(interfaces[0], interfaces[1], releases[1].version)))
    print("\n".join(faults) or "Nothing that this package leans on is gone, and all that attention functions are handed is known.")
    return int(bool(faults))


def summary(release: Release, interface: Interface) -> str:
    """One sentence about a release."""
    calls, branching = interface.keywords["scaling"], frozenset().union(*interface.labels.values())
    return (
        f"Transformers {release.version}: {len(interface.architectures)} architectures ask the attention interface, in {calls} calls with "
        f"{len(interface.keywords)} keyword arguments; {len(branching)} of them compare the name of the attention function with a label."
    )


def faults_of(release: Release, interface: Interface) -> Iterator[str]:
    """A sentence for everything that requires a change of this package."""
    for each in missing(release):
        places = " or ".join(f"{name.strip(chr(34))} in {each.package}/{path}" for path, name in each.places)
        yield f"Gone from {release.version}: {places}; {each.gone}. Look at {', '.join(each.used_by)}."
    for name in interface.unknown():
        yield (
            f"Unknown in {release.version}: attention functions are handed {name!r} ({interface.keywords[name]} calls), of which TanhMax "
            "attention does not know whether it changes the result; honour it in registration.py, or name it in REFUSED or CARRIED there, "
            "or, if it is a number or a flag that changes nothing, in IGNORED of compatibility/interface.py."
        )


def changes(before: Interface, after: Interface, version: str) -> Iterator[str]:
    """A sentence for everything that differs between two releases; `version` is the newer one's."""
    for has, found in _both(before.architectures, after.architectures):
        yield f"{version} {has} {len(found)} architectures that ask the attention interface: {', '.join(sorted(found))}."
    for has, found in _both(before.keywords, after.keywords):
        yield from (f"{version} {has} the keyword argument {name!r}, which is {meaning(name)} here." for name in sorted(found))
    counts = ((name, before.keywords[name], after.keywords[name]) for name in sorted(before.keywords.keys() & after.keywords.keys()))
    changed = [f"{name} {one} to {other}" for name, one, other in counts if one != other]
    if changed:
        yield f"Keyword arguments are passed in more or fewer calls: {', '.join(changed)}."
    for has, found in _both(before.parameters, after.parameters):
        taken = (f"{name} ({max(before.parameters[name], after.parameters[name])})" for name in sorted(found))
        yield f"{version} {has} these parameters in methods that call an attention function: {', '.join(taken)}."
    for has, found in _both(before.masks, after.masks):
        yield f"{version} {has} these functions in masking_utils: {', '.join(sorted(found))}."
    for label in sorted(before.labels.keys() | after.labels.keys()):
        for has, found in _both(before.labels.get(label, ()), after.labels.get(label, ())):
            yield f"{version} {has} code that compares the attention function with {label!r} in {', '.join(sorted(found))}."


def _both(before: Iterable[str], after: Iterable[str]) -> Iterator[tuple[str, set[str]]]:
    one, other = set(before), set(after)
    yield from ((has, found) for has, found in (("now has", other - one), ("no longer has", one - other)) if found)


if __name__ == "__main__":
    sys.exit(main())
