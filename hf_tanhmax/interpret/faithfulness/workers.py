"""The parts of a comparison, done in this process or shared among several, which have a copy of every model."""

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..inputs.loading import Loaded
from .measuring import Measured
from .one_model import OneModel, Part
from .perturbation import advance

Found = Measured | dict[str, Any]


def check_workers(workers: int, models: Mapping[str, Loaded]) -> None:
    """Refuse a number of processes that cannot be.

    Raises:
        ValueError: fewer than one, or several and a model that is not on the CPU.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, but is {workers}")
    for name, loaded in models.items() if workers > 1 else ():
        elsewhere = next((each.device for each in loaded.model.parameters() if each.device.type != "cpu"), None)
        if elsewhere is not None:
            raise ValueError(f"workers share the cores of the CPU, but {name} is on {elsewhere}; leave workers at 1, or move the models")


def results_of(parts: list[Part], models: Mapping[str, OneModel], workers: int, bar: tqdm) -> Iterator[tuple[Part, Found]]:
    """Each part with what it gave, in the order in which they are done.

    Args:
        parts: of the work.
        models: by name.
        workers: processes; 1 does everything here.
        bar: moved on by the number of texts done; by whole parts where several processes work.

    Raises:
        ValueError: the models cannot be sent to other processes.
        RuntimeError: a process ended before its work was done, or a model computes something else there.
        TypeError, ImportError: as `explain`, with the index of the text.
    """
    if workers == 1 or len(parts) < 2:
        for part in parts:
            bar.set_description(part.model[-24:])
            yield part, _done(models[part.model], part, lambda count: advance(bar, count))
        return
    yield from _shared(parts, models, min(workers, len(parts)), bar)


def _done(model: OneModel, part: Part, move: Any) -> Found:
    return model.measure(part, move) if part.jobs else model.heads(part)


def _shared(parts: list[Part], models: Mapping[str, OneModel], workers: int, bar: tqdm) -> Iterator[tuple[Part, Found]]:
    """All that is sent lies in a file: what goes through a pipe waits for ever for a process that ended before it read."""
    context = _Context()
    threads = max(1, torch.get_num_threads() // workers)
    bar.set_description(f"{workers} processes")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "work.pickle"
        _pack(file, models, parts)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(str(file), threads))
        is_done = False
        try:
            running: dict[Future[Found], Part] = {pool.submit(_do, number): part for number, part in enumerate(parts)}
            for future in as_completed(running):
                part = running[future]
                yield part, future.result()
                advance(bar, len(part.texts) if part.jobs else 0)
            is_done = True
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"one of {workers} processes ended before its work was done: what it printed says why, or the machine had no memory left "
                "(fewer workers or a smaller batch_size need less)"
            ) from error
        finally:
            if not is_done:  # something was raised, here or in a process; the others may have hours to go
                context.end_processes()
            pool.shutdown(cancel_futures=True)  # waits: the pool's own thread joins its processes, and no second one may


class _Context(SpawnContext):
    """Knows the processes that a pool starts by it, which the pool keeps to itself before Python 3.14."""

    def __init__(self) -> None:
        self.processes: list[SpawnProcess] = []

    def Process(self, *args: Any, **keywords: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802 - a class there
        self.processes.append(SpawnProcess(*args, **keywords))
        return self.processes[-1]

    def end_processes(self) -> None:
        for process in self.processes:
            if process.pid is not None:  # the machine may have refused to start it
                process.terminate()


def _pack(file: Path, models: Mapping[str, OneModel], parts: list[Part]) -> None:
    """Copies for processes that share no memory with this one."""
    try:
        with file.open("wb") as opened:
            pickle.dump((dict(models), parts), opened)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(f"the models cannot be sent to other processes ({error}); leave workers at 1") from error


# What a process of the pool has, which only its own work touches.
_models: dict[str, OneModel] = {}
_parts: list[Part] = []
_checked: set[str] = set()


def _begin(file: str, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that began them ends them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    models, parts = pickle.loads(Path(file).read_bytes())
    _models.update(models)
    _parts.extend(parts)


def _end_with_parent() -> None:
    """Nobody is left to take results once the process that began this one has been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(number: int) -> Found:
    part = _parts[number]
    model = _models[part.model]
    if part.model not in _checked:
        model.check_copy()
        _checked.add(part.model)
    return _done(model, part, lambda _: None)
