"""The command export of `hf-tanhmax`.

It takes the parsed options and returns an exit code. What the user has to mend ends it as `SystemExit` with one sentence.
"""

import argparse
from pathlib import Path

import transformers

from ..export import ExportReport, export_model
from .checks import in_a_sentence, no_auto_class


def run_export(options: argparse.Namespace) -> int:
    """A model as files of another runtime."""
    auto_class = None if options.auto_class is None else getattr(transformers, options.auto_class, None)
    if auto_class is None and options.auto_class is not None:
        raise SystemExit(no_auto_class(options.auto_class))
    with in_a_sentence(f"cannot export {options.model}"):
        report = export_model(
            options.model,
            options.out,
            format=options.format,
            auto_class=auto_class,
            with_past=options.with_past,
            opset=options.opset,
            int8=options.int8,
            revision=options.revision,
            progress=lambda words: print(f"{words} ...", flush=True),
        )
    print(_in_words(report, Path(options.out)))
    return 0


def _in_words(report: ExportReport, out: Path) -> str:
    files = ", ".join(sorted(path.name for path in out.iterdir()))
    said = [
        f"{out} holds {files}",
        f"at most {report.largest_difference:.2g} from the live {report.model}, over {len(report.checks)} calls",
    ]
    for name, graph in report.graphs.items():
        fused = graph["attention_nodes"]
        attention = f", of which {fused} are softmax attention for {report.attentions} attention layers" if fused else ""
        said.append(f"{name}: {graph['nodes']} nodes{attention}")
    if report.int8 is not None:
        said.append(f"with int8 weights at most {max(each['difference'] for each in report.int8):.2g} from it; measure what that costs you")
    return "\n".join(said)
