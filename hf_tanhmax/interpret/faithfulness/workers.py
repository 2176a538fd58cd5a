"""The parts of a comparison, done in this process or shared among several, which have a copy of every model."""

import multiprocessing
import pickle
import queue
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from tqdm.auto import tqdm

from ..inputs.loading import Loaded
from .measuring import Measured
from .one_model import OneModel, Part
from .perturbation import advance

POLL = 0.2  # seconds between two looks at how far the processes are
Found = Measured | dict[str, Any]


def check_workers(workers: int, models: Mapping[str, Loaded]) -> None:
    """Refuse a number of processes that cannot be.

    Raises:
        ValueError: fewer than one, or several and a model that is not on the CPU.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, but is {workers}")
    elsewhere = {name: device for name, loaded in models.items() if (device := next(loaded.model.parameters()).device).type != "cpu"}
    if workers > 1 and elsewhere:
        name, device = next(iter(elsewhere.items()))
        raise ValueError(f"workers share the cores of the CPU, but {name} is on {device}; leave workers at 1, or move the models")


def results_of(parts: list[Part], models: Mapping[str, OneModel], workers: int, bar: tqdm) -> Iterator[tuple[Part, Found]]:
    """Each part with what it gave, in the order in which they are done.

    Args:
        parts: of the work.
        models: by name.
        workers: processes; 1 does everything here.
        bar: moved on by the number of texts done.

    Raises:
        ValueError: the models cannot be sent to other processes.
        RuntimeError: a process was killed, as by a machine that has no memory left.
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
    context = multiprocessing.get_context("spawn")
    moves = context.Queue()
    threads = max(1, torch.get_num_threads() // workers)
    bar.set_description(f"{workers} processes")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(_packed(models), threads, moves))
    running: dict[Future[Found], Part] = {pool.submit(_do, part): part for part in parts}
    try:
        while running:
            done, _ = wait(running, POLL, FIRST_COMPLETED)
            _move(bar, moves)
            for future in done:
                found = future.result()
                yield running.pop(future), found
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"one of {workers} processes ended before its work was done, maybe for want of memory; fewer workers or a smaller batch_size "
            "need less"
        ) from error
    finally:
        pool.shutdown(wait=not running, cancel_futures=True)
        if running:  # something was raised, here or in a process
            _end(set(multiprocessing.active_children()) - others)


def _end(children: set[Any]) -> None:
    for child in children:
        child.terminate()
    for child in children:
        child.join()


def _packed(models: Mapping[str, OneModel]) -> bytes:
    """Copies for another process, which shares no memory with this one."""
    try:
        return pickle.dumps(dict(models))
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(f"the models cannot be sent to other processes ({error}); leave workers at 1") from error


def _move(bar: tqdm, moves: Any) -> None:
    """Move the bar on by what the processes have said."""
    while True:
        try:
            advance(bar, moves.get_nowait())
        except queue.Empty:
            return


# What a process of the pool has, which only its own work touches.
_models: dict[str, OneModel] = {}
_moves: list[Any] = []


def _begin(packed: bytes, threads: int, moves: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that began them ends them
    torch.set_num_threads(threads)
    _models.update(pickle.loads(packed))
    _moves.append(moves)


def _do(part: Part) -> Found:
    return _done(_models[part.model], part, _moves[0].put)
