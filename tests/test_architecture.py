"""The layers: a module imports only from lower ones, nothing is unlisted, importing stays light, public names are known."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_tanhmax

PACKAGE = Path(hf_tanhmax.__file__).parent

# From low to high. A module may import from the rows above its own, and a package's modules from each other where the row says so.
LAYERS = (
    ("dataflow", "functional", "names", "namespace", "settings", "stock", "visibility"),
    ("compatibility.caches", "compatibility.sources", "kernels.support", "kernels.schedule", "kernels.primitives"),
    ("kernels.shift", "models.adapters", "models.bundle", "native_code", "reading", "words"),
    ("compatibility.dependencies", "reference", "composed", "blocked", "native", "kernels.layout", "kernels.tuning", "kernels.forward"),
    ("native_attention", "paging", "kernels.backward", "kernels.decode", "kernels.interpreter"),
    ("kernels.launch",),
    ("kernels.launch_decode",),
    ("ops",),
    ("attention",),
    ("serving",),
    ("registration",),
    ("detection",),
    ("compatibility.interface", "patching"),
    ("compatibility.__main__",),
    ("annealing", "models.family"),
    ("models.bert", "models.vit", "models.llama"),
    ("models.auto",),
    ("models.conversion", "models.remote", "saved"),
    ("doctor.report", "cards.text", "cards.facts"),
    ("doctor.files", "doctor.code", "doctor.weights", "doctor.environment", "cards.measured"),
    ("doctor.checkpoint", "cards.procedure"),
    ("doctor", "cards.metadata"),
    ("cards.card",),
    ("cards", "hub.sentences"),
    ("hub.eval_results",),
    ("hub.beside",),
    ("hub.staging",),
    ("hub.adapter_base",),
    ("hub.push",),
    ("hub",),
    ("interpret.colours", "interpret.packed", "interpret.rank_collapse"),
    (
        "interpret.explanation",
        "interpret.extras",
        "interpret.orientation",
        "interpret.patches",
        "interpret.rollout",
        "interpret.token_words",
    ),
    ("interpret.encoding", "interpret.evaluation", "interpret.recording", "interpret.target"),
    ("interpret.altered", "interpret.calling"),
    ("interpret.gradients",),
    ("interpret.erasing", "interpret.passes"),
    ("interpret.examining",),
    ("interpret.explain", "interpret.measures", "interpret.saving", "interpret.viewers"),
    ("interpret.faithfulness_report",),
    ("interpret.faithfulness",),
    ("interpret.captions", "interpret.lettering"),
    ("interpret.chosen",),
    ("interpret.page_data", "interpret.plots"),
    ("interpret.page",),
    ("interpret.loading", "interpret.reading"),
    ("interpret",),
    ("interpret.commands",),
    ("commands",),
    ("cli",),
    ("__init__",),
)
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
# Checks of a polarity, and what an additive mask hides, are written once.
WITHIN = {("settings", "functional"), ("kernels.primitives", "functional")}

PUBLIC = {
    "PolarityCallback",
    "TanhMaxBertConfig",
    "TanhMaxBertForMaskedLM",
    "TanhMaxBertForMultipleChoice",
    "TanhMaxBertForNextSentencePrediction",
    "TanhMaxBertForPreTraining",
    "TanhMaxBertForQuestionAnswering",
    "TanhMaxBertForSequenceClassification",
    "TanhMaxBertForTokenClassification",
    "TanhMaxBertLMHeadModel",
    "TanhMaxBertModel",
    "TanhMaxLlamaConfig",
    "TanhMaxLlamaForCausalLM",
    "TanhMaxLlamaForQuestionAnswering",
    "TanhMaxLlamaForSequenceClassification",
    "TanhMaxLlamaForTokenClassification",
    "TanhMaxLlamaModel",
    "TanhMaxSettings",
    "TanhMaxViTConfig",
    "TanhMaxViTForImageClassification",
    "TanhMaxViTForMaskedImageModeling",
    "TanhMaxViTModel",
    "convert",
    "restore",
    "set_polarity",
    "tanhmax",
    "tanhmax_attention",
    "tanhmax_on",
    "to_softmax",
    "use_tanhmax",
    "why_not",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name not in ("compatibility.__init__", "models.__init__", "kernels.__init__"):  # which hold nothing
            yield name.removesuffix(".__init__"), path


def imports_of(name, path):
    """Modules of the package that a module imports, as their names in `LAYERS`."""
    folder = list(path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                target = ".".join([*base, alias.name])
                yield target if target in LEVEL else ".".join(base)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (imported for imported in names if imported.split(".")[0] in ("hf_tanhmax", "recipes", "tests"))


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda item: str(item) if isinstance(item, str) else "")
def test_imports_point_down(name, path):
    assert name in LEVEL, f"{name} is in no layer"
    for target in imports_of(name, path):
        assert target in LEVEL, f"{name} imports {target}, which is in no layer"
        assert LEVEL[target] < LEVEL[name] or (name, target) in WITHIN, f"{name} imports {target}, which is not below it"


def test_every_listed_module_exists():
    assert {name for name, _ in modules()} == set(LEVEL)


def test_public_names():
    assert set(hf_tanhmax.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(hf_tanhmax, name).__doc__


def in_a_fresh_process(code):
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_cold_import_is_light():
    code = """
import json, sys
import hf_tanhmax, torch
heavy = ("triton", "matplotlib", "sklearn", "datasets", "peft", "accelerate", "captum", "torchvision", "recipes")
print(json.dumps({"heavy": [name for name in heavy if name in sys.modules], "cuda": torch.cuda.is_initialized()}))
"""
    bare = "import json, sys\nfrom transformers import BertModel, LlamaModel, ViTModel\nprint(json.dumps(list(sys.modules)))"
    found = in_a_fresh_process(code)
    assert not found["cuda"]
    assert not set(found["heavy"]) - set(in_a_fresh_process(bare))


def test_import_adds_little_to_transformers():
    """At most a tenth of the time that Transformers' own model classes take, in one of three tries."""
    code = """
import json, time
start = time.perf_counter()
from transformers import BertForMaskedLM, LlamaForCausalLM, ViTForImageClassification
middle = time.perf_counter()
import hf_tanhmax
print(json.dumps((time.perf_counter() - middle) / (middle - start)))
"""
    assert any(in_a_fresh_process(code) < 0.1 for _ in range(3))
