"""accelerate as it behaves on a machine with GPUs, on the CPU over gloo: it shares parameters out (FSDP, DeepSpeed) nowhere else.

As a script it runs a recipe so: `accelerate launch --config_file fsdp2.yaml as_on_gpus.py RECIPE --key value ...`.
"""

import os
import sys
from datetime import timedelta

import torch.distributed as dist


def as_on_gpus():
    """Have accelerate's state, whenever it is made, say that processes have a GPU each; tensors stay on the CPU.

    accelerate has no public way to say so: its own tests of FSDP and DeepSpeed need GPUs.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)


def main():
    from hf_tanhmax.training import trainer
    from hf_tanhmax.training.train import main as train

    as_on_gpus()
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":  # it must not be told of a CPU either
        given = trainer.TrainingArguments
        trainer.TrainingArguments = lambda **options: given(**options | {"use_cpu": False, "ddp_backend": "gloo"})
    else:
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    code = train(sys.argv[1:])
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo's teardown hangs now and then


if __name__ == "__main__":
    main()
