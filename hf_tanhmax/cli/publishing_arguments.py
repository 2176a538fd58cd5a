"""The arguments of the commands that write a model for others: export, push, push-kernel, card."""

import argparse

from . import checks, values
from .parser import Commands, add_command


def add_publishing_commands(commands: Commands) -> None:
    """Add them."""
    _add_export(commands)
    _add_push(commands)
    _add_push_kernel(commands)
    _add_card(commands)


def _add_export(commands: Commands) -> None:
    parser = add_command(
        commands,
        "export",
        "write a TanhMax model as files of another runtime, and compare them with it",
        "runs/bert--text_classification--aligned--seed0 bert-onnx --int8",
        "my-vit vit-openvino --format openvino",
        "my-llama llama-onnx --task text-generation",
        more="Batch and length are left open. A model that generates becomes two graphs, for the prompt and for each token after it, with\n"
        "a KV cache. OUT/export.json says how far the files are from the live model, at several sizes and with padding.",
    )
    parser.add_argument("model", metavar="MODEL", help="a folder, or a name on the Hub")
    parser.add_argument("out", metavar="OUT", help="a new folder")
    parser.add_argument("--format", default="onnx", metavar="F", help=f"{', '.join(checks.FORMATS)}; default onnx")
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--task", help="the task, such as text-classification; default that of the checkpoint")
    head.add_argument("--auto-class", metavar="CLASS", help="the Auto class of Transformers, instead of a task")
    parser.add_argument("--with-past", action=argparse.BooleanOptionalAction, help="with a KV cache; default for a causal language model")
    parser.add_argument("--opset", type=values.count, metavar="N", help="of ONNX; default 23, the first with a node for attention")
    parser.add_argument("--int8", action="store_true", help="also write ONNX files with int8 weights, ..._quantized.onnx")
    parser.add_argument("--revision", help="commit, tag or branch of a model on the Hub")
    parser.set_defaults(check=checks.check_export, module="export_commands")


def _add_push(commands: Commands) -> None:
    parser = add_command(
        commands,
        "push",
        "publish a checkpoint or a run's folder on the Hub",
        "runs/bert--text_classification--annealed--seed0 you/bert-tanhmax-sst2 --private",
        "runs/bert--text_classification--lora--seed0 you/bert-tanhmax-lora --merge",
        more="Only what loading needs is sent, with the card and the results. Log in with `hf auth login`, or set HF_TOKEN.",
    )
    parser.add_argument("path", metavar="PATH", help="the folder of a checkpoint or a run")
    parser.add_argument("repo", metavar="REPO", help="owner/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="a branch; default main")
    parser.add_argument("--message", help="the title of the commit")
    parser.add_argument("--merge", action="store_true", help="publish an adapter and its base as one model")
    parser.set_defaults(check=checks.check_push)


def _add_push_kernel(commands: Commands) -> None:
    parser = add_command(
        commands,
        "push-kernel",
        "publish TanhMax attention as a kernel on the Hub, for stock models where hf_tanhmax is not installed",
        "you/tanhmax --private",
        "you/tanhmax --out kernel",
        more="It is no checkpoint format: what such a model saves loads as softmax. Accounts may create kernels once the Hub allows it.",
    )
    parser.add_argument("repo", metavar="REPO", help="owner/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--message", help="the title of the commits")
    parser.add_argument("--out", metavar="FOLDER", help="write the repository to a new folder instead, and publish nothing")
    parser.set_defaults(check=checks.check_push_kernel)


def _add_card(commands: Commands) -> None:
    parser = add_command(
        commands,
        "card",
        "write the model card of a checkpoint or a run's folder",
        "runs/bert--text_classification--annealed--seed0 --repo you/bert-tanhmax-sst2 --overwrite",
        "my-model --results results/bert--masked_lm--annealed.json --compare_with results/bert--masked_lm--softmax.json",
    )
    parser.add_argument("path", metavar="PATH", help="the folder of a checkpoint or a run")
    parser.add_argument("--repo", help="owner/name, from which the code on the card loads")
    parser.add_argument("--results", nargs="+", metavar="FILE", help="results of the model's runs; default PATH/results.json")
    parser.add_argument("--compare_with", nargs="+", metavar="FILE", default=[], help="results of other runs, for a comparison table")
    parser.add_argument("--out", metavar="FILE", help="default PATH/README.md")
    parser.add_argument("--overwrite", action="store_true", help="replace a card that is there")
    parser.add_argument("--base-model", metavar="NAME", help="the model on the Hub that it was made from")
    parser.add_argument("--dataset", metavar="NAME", help="the data set of the Hub that the model was measured on, if the run read files")
    parser.add_argument("--license", help="as the Hub writes it, such as apache-2.0; default that of the base model, if its card says one")
    parser.add_argument("--language", help="language of the data, such as en")
    parser.set_defaults(check=checks.check_card)
