"""Run the levels of every model type of the installed Transformers: `python tests/sweep/run.py --record FILE`.

It goes on where it was stopped: what the record has is left out. A type that crashes, or takes longer than the limit, is recorded so, and
the rest go on in a new process. `--write` makes the results file out of the record, and
`tests/helpers/readme.py` the table out of that.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import queue
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

HERE = Path(__file__).parent
LIMIT = 120  # seconds of one type
LIFE = 60  # types of one process, whose memory grows with every module that is imported


def main() -> None:
    """Examine the types that are asked for and not in the record yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, required=True, help="a file of one line of JSON per type, which grows")
    parser.add_argument("--only", nargs="+", default=[], metavar="TYPE")
    parser.add_argument("--again", nargs="+", default=[], metavar="OUTCOME", help="works, refused, failed, untried, or all")
    parser.add_argument("--levels", nargs="+", default=[], metavar="LEVEL", help="only these, of what works; the rest stays as it is")
    parser.add_argument("--share", default="1/1", metavar="N/OF", help="every OF-th type from the N-th, for several runs at once")
    parser.add_argument("--write", action="store_true", help="only write results and table")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        return work(chosen.levels)
    known = read_record(chosen.record)
    if chosen.write:
        return write(completed(known, recorded()) if chosen.levels else known)
    share, of = map(int, chosen.share.split("/"))
    types = [name for name in list(CONFIG_MAPPING_NAMES)[share - 1 :: of] if not chosen.only or name in chosen.only]
    if chosen.levels:
        types = [name for name in types if recorded()[name]["outcome"] == "works"]
    if not chosen.only:
        again = {*chosen.again, *(("works", "refused", "failed", "untried") if "all" in chosen.again else ())}
        types = [name for name in types if name not in known or known[name]["outcome"] in again]
    with chosen.record.open("a") as record:
        for number, found in enumerate(examined(types, chosen.levels)):
            record.write(json.dumps(found) + "\n")
            record.flush()
            print(f"{number + 1}/{len(types)} {found['type']}: {found['outcome']} {found.get('reason', '')[:200]}", flush=True)
    return None


def read_record(path: Path) -> dict[str, dict]:
    """The last entry of each type."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["type"]: entry for entry in map(json.loads, lines)}


def recorded() -> dict[str, dict]:
    """What the results file of the installed Transformers has."""
    return json.loads((HERE / f"results-{transformers.__version__}.json").read_text())["types"]


def completed(record: dict[str, dict], results: dict[str, dict]) -> dict[str, dict]:
    """Results in which each type has the levels that a record has of it."""
    for name, entry in results.items():
        if name in record:
            entry["levels"] = entry.get("levels", {}) | record[name].get("levels", {})
            if record[name]["outcome"] != "works":
                entry |= {key: record[name][key] for key in ("outcome", "reason")}
    return results


def write(record: dict[str, dict]) -> None:
    """The results file of the installed Transformers: every type that is in the record, without times."""
    from levels import LEVELS

    types = {name: kept(record[name]) for name in CONFIG_MAPPING_NAMES if name in record}
    versions = {"transformers": transformers.__version__, "torch": importlib.metadata.version("torch").split("+")[0]}
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in types.items()]  # one line per type, for a diff to show
    head = json.dumps({**versions, "levels": LEVELS, "types": None}, indent=1).removesuffix("null\n}")
    (HERE / f"results-{transformers.__version__}.json").write_text(head + "{\n" + ",\n".join(lines) + "\n}}\n")


def kept(entry: dict) -> dict:
    """What the results keep of an entry: no times, and of the levels those that were not passed, with why."""
    found = {key: value for key, value in entry.items() if key not in ("type", "seconds")}
    if found["outcome"] == "works":
        found.pop("reason", None)  # of a refusal that `softmax_parts` answers
        found["levels"] = {name: outcome for name, outcome in found["levels"].items() if outcome != "passed"}
    return found


def examined(types: list[str], levels: Sequence[str] = ()):
    """What came of each type, in their order; in processes that are replaced when they die, hang or grow old."""
    worker, served = None, 0
    for name in types:
        worker = worker or Worker(levels)
        served += 1
        try:
            yield worker.ask(name)
        except (TimeoutError, ProcessLookupError) as error:
            served = LIFE
            yield {"type": name, "outcome": "failed", "reason": str(error)}
        if served >= LIFE:
            worker.stop()
            worker, served = None, 0
    if worker is not None:
        worker.stop()


class Worker:
    """A process that examines one type after the other."""

    def __init__(self, levels: Sequence[str]) -> None:
        command = [sys.executable, str(Path(__file__)), "--worker", "--record", os.devnull, *(["--levels", *levels] if levels else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.answers: queue.Queue = queue.Queue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            if line.startswith("{"):
                self.answers.put(line)
        self.answers.put(None)  # the process ended

    def ask(self, name: str) -> dict:
        """What came of a type.

        Raises:
            TimeoutError, ProcessLookupError: why nothing did.
        """
        try:
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
            answer = self.answers.get(timeout=LIMIT)
        except queue.Empty:
            raise TimeoutError(f"no answer in {LIMIT} s") from None
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise ProcessLookupError(f"the process ended with {self.process.wait()}")
        return json.loads(answer)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.listener.join()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


def work(levels: Sequence[str]) -> None:
    """Answer each line, a model type, by a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever else prints
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    import torch
    from levels import LEVELS, levels_of

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(levels_of(line.strip(), levels or LEVELS)), file=answers, flush=True)


if __name__ == "__main__":
    main()
