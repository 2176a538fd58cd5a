"""The machines of `accelerate_configs/` as accelerate reads them, launches that ask for what does not come, and Ctrl-C."""

import importlib.util
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from families import BACKBONES, TINY, tiny_model
from torch.distributed.fsdp import StateDictType
from transformers import TrainerCallback

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training import run as running
from hf_tanhmax.training.configuration.schema import ROOT
from hf_tanhmax.training.launch import InterruptCallback, check_launch, check_switched_on

CONFIGS = ROOT / "accelerate_configs"


@pytest.fixture
def launch(monkeypatch):
    """What accelerate makes of a file: the arguments of the launch, and the environment that its processes would get, which is set."""

    def read(name):
        for key in [key for key in os.environ if key.startswith(("ACCELERATE_", "FSDP_"))]:
            monkeypatch.delenv(key)
        parser = launch_command_parser()
        command = ["--config_file", str(CONFIGS / f"{name}.yaml"), "--main_process_port", "0", "script.py"]
        arguments, config, _ = _validate_launch_command(parser.parse_args(command))
        unknown = {*config.fsdp_config, *config.deepspeed_config} - set(vars(parser.parse_args(["script.py"])))
        assert not unknown, f"accelerate knows no {unknown}"
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
            environment = prepare_deepspeed_cmd_env(arguments)[1]
        else:
            environment = prepare_multi_gpu_env(arguments) if arguments.num_processes > 1 else prepare_simple_launcher_cmd_env(arguments)[1]
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        return arguments

    return read


def test_every_file_is_tested():
    assert {path.stem for path in CONFIGS.iterdir()} == {"cpu", "ddp", "fsdp2", "zero2", "zero3"}


@pytest.mark.parametrize(
    ("name", "processes", "kind"),
    [("cpu", 1, None), ("ddp", 2, "multi_gpu"), ("fsdp2", 2, "use_fsdp"), ("zero2", 2, "use_deepspeed"), ("zero3", 2, "use_deepspeed")],
)
def test_what_is_launched(name, processes, kind, launch):
    arguments = launch(name)
    assert arguments.num_processes == processes
    assert arguments.num_machines == 1
    assert arguments.use_cpu == (name == "cpu")
    assert [each for each in ("multi_gpu", "use_fsdp", "use_deepspeed") if getattr(arguments, each)] == ([kind] if kind else [])
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"
    for switch, wanted in (("FSDP", "use_fsdp"), ("DEEPSPEED", "use_deepspeed")):
        assert os.environ.get(f"ACCELERATE_USE_{switch}") == ("true" if kind == wanted else None)


@pytest.mark.parametrize("family", TINY)
def test_fsdp2_shards_layer_by_layer_and_saves_whole_weights(family, launch):
    launch("fsdp2")
    plugin, model = FullyShardedDataParallelPlugin(), tiny_model(BACKBONES[family])
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert not plugin.activation_checkpointing
    assert not plugin.cpu_ram_efficient_loading
    plugin.set_auto_wrap_policy(model)
    wrapped = [module for module in model.modules() if plugin.auto_wrap_policy(module, recurse=False, nonwrapped_numel=1)]
    assert len(wrapped) >= TINY[family]["num_hidden_layers"]
    assert {type(module).__name__ for module in wrapped} <= set(model._no_split_modules)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_takes_the_rest_from_the_recipe_and_saves_whole_weights(stage, launch):
    launch(f"zero{stage}")
    config = DeepSpeedPlugin().deepspeed_config
    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] == (stage == 3)
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "none"
    assert config["zero_optimization"]["offload_param"]["device"] == "none"
    keys = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    assert {config[key] for key in keys} == {"auto"}


# What a launch asks for and does not get


@pytest.fixture
def asked(monkeypatch):
    """Set what a launcher puts in the environment, and nothing else of its kind."""

    def ask(**environment):
        for key in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "WORLD_SIZE"):
            monkeypatch.delenv(key, raising=False)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)

    return ask


def test_an_ordinary_launch_passes(asked):
    asked()
    check_launch()
    check_switched_on(PartialState(cpu=True))
    asked(ACCELERATE_USE_FSDP="false", ACCELERATE_USE_DEEPSPEED="false", PARALLELISM_CONFIG_CP_SIZE="1", WORLD_SIZE="1")
    check_launch()
    check_switched_on(PartialState(cpu=True))


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_deepspeed_that_is_not_installed(asked):
    asked(ACCELERATE_USE_DEEPSPEED="true")
    with pytest.raises(RecipeError, match="asks for DeepSpeed, which is not installed; pip install deepspeed"):
        check_launch()


@pytest.mark.parametrize(
    ("kind", "name", "reason"), [("context", "CP", "which recipes do not run"), ("sequence", "SP", "in which .* the keys of its own")]
)
def test_shared_out_sequences(kind, name, reason, asked):
    asked(**{f"PARALLELISM_CONFIG_{name}_SIZE": "2"})
    with pytest.raises(RecipeError, match=rf"asks for {kind} parallelism \(PARALLELISM_CONFIG_{name}_SIZE=2\), {reason}"):
        check_launch()


@pytest.mark.parametrize(("name", "words"), [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")])
def test_what_accelerate_left_out(name, words, asked):
    asked(**{f"ACCELERATE_USE_{name}": "true"})
    with pytest.raises(RecipeError, match=f"asks for {words}, but accelerate runs NO on cpu: it leaves {words} out in silence"):
        check_switched_on(PartialState(cpu=True))


def test_processes_that_do_not_know_of_each_other(asked):
    asked(WORLD_SIZE="2")
    with pytest.raises(RecipeError, match=r"2 processes were launched, but each trains alone \(distributed type NO\)"):
        check_switched_on(PartialState(cpu=True))


@pytest.mark.parametrize(
    ("name", "found"),
    [("FSDP", DistributedType.MULTI_GPU), ("FSDP", DistributedType.FSDP), ("DEEPSPEED", DistributedType.DEEPSPEED)],
)
def test_what_accelerate_says_on_a_gpu_passes(name, found, asked):
    """Before there is an `Accelerator`, FSDP is still called MULTI_GPU."""
    asked(**{f"ACCELERATE_USE_{name}": "true", "WORLD_SIZE": "2"})
    check_switched_on(SimpleNamespace(distributed_type=found, num_processes=2))


@pytest.mark.slow
def test_fsdp_launched_on_a_cpu_is_refused_in_every_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, torch.distributed\n"
        "from accelerate import PartialState\n"
        "from hf_tanhmax.errors import RecipeError\n"
        "from hf_tanhmax.training.launch import check_launch, check_switched_on\n"
        "check_launch()\n"
        "state = PartialState(cpu=True)\n"
        "assert state.num_processes == 2\n"
        "try:\n"
        "    check_switched_on(state)\n"
        "except RecipeError as error:\n"
        "    print(f'process {state.process_index}: {error}', flush=True)\n"
        "torch.distributed.barrier()\n"  # gloo calls it a crash if one process is gone before the other is connected
        "os._exit(0)\n"
    )
    command = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "fsdp2.yaml"), "--main_process_port", "0", str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for process in (0, 1):
        assert f"process {process}: the launch asks for FSDP, but accelerate runs MULTI_CPU on cpu" in done.stdout


# Ctrl-C: the step ends, a checkpoint is saved, the sentence says how to go on, and going on gives what the whole run would have given


class Pressed(TrainerCallback):
    """Sends a signal to this process in the middle of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.slow
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
    callback = InterruptCallback()
    callback.on_train_begin()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        callback.on_train_end()
