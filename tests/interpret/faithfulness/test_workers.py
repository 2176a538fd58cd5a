"""A comparison that several processes share gives what one gives, says what went wrong in them, and leaves none behind."""

import dataclasses
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from families import softmax_twin, text, tiny_model
from tqdm.auto import tqdm

import hf_tanhmax
from hf_tanhmax.interpret import compare_faithfulness
from hf_tanhmax.interpret.faithfulness import measuring, workers
from hf_tanhmax.interpret.faithfulness.compare import ComparisonOptions
from hf_tanhmax.interpret.faithfulness.one_model import Part
from hf_tanhmax.interpret.inputs.loading import Loaded

OPTIONS = ComparisonOptions(("attention_tau", "pi_soft_sufficiency"), seeds=2, head_texts=1)
METHODS = ("contributions", "random")
HOURS = 200  # seconds, more than anything here takes


SCRIPT = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
import pickle, tempfile
from hf_tanhmax.interpret.faithfulness import workers

if __name__ == "__main__":
    file = tempfile.NamedTemporaryFile()
    file.write(pickle.dumps(({}, [])))
    file.flush()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(2, mp_context=context, initializer=workers._begin, initargs=(file.name, 1))
    futures = [pool.submit(time.sleep, 600) for _ in range(2)]
    while not all(future.running() for future in futures):
        time.sleep(0.1)
    time.sleep(5)  # for both to have begun
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(600)
"""


def is_running(pid):
    """Whether there is such a process that has not ended, waited for or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


class Fatal:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (3,)


class Endless:
    """Of two parts it refuses one at once, and has hours to go with the other."""

    def check_copy(self):
        pass

    def heads(self, part):
        if part.model == "refused":
            raise ValueError("refused")
        time.sleep(HOURS)


@pytest.fixture
def pair():
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    return {"soft": Loaded(softmax_twin(model), None, None), "tanh": Loaded(model, None, None)}


@pytest.fixture
def inputs():
    return [{"input_ids": text(1, 23)[:, start : start + length]} for start, length in enumerate((7, 5, 6, 4))]


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_values_are_those_of_one_process(pair, inputs, one_thread, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measuring, "TEXTS_PER_CHUNK", 2)
    alone = compare_faithfulness(pair, inputs, METHODS, options=OPTIONS, progress=False).to_dict()
    shared = compare_faithfulness(pair, inputs, METHODS, options=OPTIONS, partial=tmp_path / "part", workers=2).to_dict()
    assert (alone["settings"]["workers"], shared["settings"]["workers"]) == (1, 2)
    assert {**alone, "settings": {}} == {**shared, "settings": {}}
    assert "8/8 texts" in capsys.readouterr().err.split("\r")[-1]
    assert multiprocessing.active_children() == []


def test_what_a_process_raises_is_said(pair, inputs):
    broken = [*inputs, {"input_ids": torch.full((1, 6), 10**6)}]
    with pytest.raises((IndexError, ValueError)):
        compare_faithfulness(pair, broken, METHODS, options=OPTIONS, workers=2, progress=False)
    assert multiprocessing.active_children() == []


def test_processes_that_have_hours_to_go_are_ended_when_another_has_failed():
    parts, begun = [Part(name, None, {}, ()) for name in ("long", "refused")], time.monotonic()
    with pytest.raises(ValueError, match="refused"):
        list(workers.results_of(parts, dict.fromkeys(("long", "refused"), Endless()), 2, tqdm(disable=True)))
    assert time.monotonic() - begun < HOURS
    assert multiprocessing.active_children() == []


def test_a_process_that_ends_at_once_is_said_however_much_is_sent():
    """More than a pipe holds, and more parts than there are processes."""
    parts = [Part(name, None, {}, ()) for name in ("one", "other", "third")]
    models = {"one": Fatal(), "other": bytes(1_000_000), "third": Fatal()}
    with pytest.raises(RuntimeError, match="one of 2 processes ended before its work was done: what it printed says why"):
        list(workers.results_of(parts, models, 2, tqdm(disable=True)))
    assert multiprocessing.active_children() == []


def test_a_copy_that_computes_something_else_is_refused(pair, inputs, monkeypatch):
    """Code that was replaced here is not replaced in another process."""

    def _other(self, hidden):
        return original(self, hidden) * 2

    original = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", _other)
    with pytest.raises(RuntimeError, match=r"computes something else in another process .*leave workers at 1"):
        compare_faithfulness(pair, inputs, METHODS, options=OPTIONS, workers=2, progress=False)
    assert multiprocessing.active_children() == []


def test_only_one_thread_waits_for_a_process_and_those_of_others_stay(monkeypatch):
    """What one thread has just reaped, another takes for a process that still runs."""
    waited, pack, reaped = os.waitpid, workers._pack, []
    own = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))

    def _slowly(pid, options):
        is_main = threading.current_thread() is threading.main_thread()
        time.sleep(0.5 if is_main else 0)
        found = waited(pid, options)
        if found[0] == pid and not is_main and not reaped:
            reaped.append(pid)
            time.sleep(5)  # which nobody else knows yet
        return found

    def _pack(*work):
        own.start()  # as another thread may meanwhile
        pack(*work)

    monkeypatch.setattr(os, "waitpid", _slowly)
    monkeypatch.setattr(workers, "_pack", _pack)
    with pytest.raises(RuntimeError, match="ended before its work was done"):
        list(workers.results_of([Part(name, None, {}, ()) for name in "abc"], {"a": Fatal()}, 2, tqdm(disable=True)))
    assert (multiprocessing.active_children(), len(reaped)) == ([own], 1)
    own.terminate()
    own.join()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc, which says what processes there are")
def test_processes_end_when_the_one_that_began_them_is_killed(tmp_path):
    """Workers that wait for ever: their parent is killed, and so their processes go."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) == 2
    end = time.monotonic() + 60
    while any(map(is_running, children)):
        assert time.monotonic() < end, "a process has outlived its parent"
        time.sleep(0.1)


def test_models_that_cannot_be_sent(pair, inputs):
    pair["soft"].model.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"the models cannot be sent to other processes \(.*lambda.*\); leave workers at 1"):
        compare_faithfulness(pair, inputs, METHODS, options=dataclasses.replace(OPTIONS, head_texts=1), workers=2, progress=False)


def test_numbers_and_devices_that_cannot_be(pair, inputs):
    with pytest.raises(ValueError, match="workers must be at least 1, but is 0"):
        compare_faithfulness(pair, inputs, METHODS, options=OPTIONS, workers=0)
    pair["tanh"].model.to("meta")
    with pytest.raises(ValueError, match="workers share the cores of the CPU, but tanh is on meta; leave workers at 1, or move the models"):
        workers.check_workers(2, pair)
    workers.check_workers(1, pair)
