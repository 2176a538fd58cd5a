"""Ctrl-C: the step ends, a checkpoint is saved, the sentence says how to go on, and going on gives what the whole run would have given."""

import os
import signal

import pytest
from transformers import TrainerCallback

from hf_tanhmax.training import run as running


class Pressed(TrainerCallback):
    """Sends a signal to this process in the middle of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_resume(number, train, tmp_path, monkeypatch):
    flags = ("--save_steps", "100")
    before = signal.getsignal(signal.SIGINT)
    _, _, whole = train("annealed", *flags, folder="whole")
    trainer = running.RecipeTrainer

    def pressed(**options):
        options["callbacks"].append(Pressed(4, number))
        return trainer(**options)

    with monkeypatch.context() as patch:
        patch.setattr(running, "RecipeTrainer", pressed)
        code, said, results = train("annealed", *flags)
    assert code == 130
    assert results is None
    assert "stopping after this step; once more to stop at once" in said
    saved = tmp_path / "run" / "checkpoint-5"
    assert f"stopped: after step 5 of 9, saved in {saved}; add --resume to the same command to go on" in said
    assert "Traceback" not in said
    assert signal.getsignal(signal.SIGINT) is before
    code, said, resumed = train("annealed", *flags, "--resume", "true")
    assert code == 0, said
    assert f"resuming from {saved}" in said
    assert resumed["metrics"] == whole["metrics"]


def test_a_second_signal_stops_at_once():
    callback = running.InterruptCallback()
    callback.on_train_begin()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        callback.on_train_end()
