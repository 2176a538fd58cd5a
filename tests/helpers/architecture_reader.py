"""A process that loads checkpoints of many architectures by the code that they bring, and compares with what the package computed.

    python tests/helpers/architecture_reader.py FOLDER ROLE

Checkpoints lie in FOLDER as `<architecture>/<Auto class>/published`, so that one run of their file serves them all, each with
`expected.pt`, what the package computed. In `FOLDER/other` are two more, by a file of another version that doubles what attention computes.
ROLE says which checks are run: `alone`, without the plugin, or `beside`, where it is imported after some of them. What is wrong is written
to `ROLE.json` by the name of the check, nothing as null.
"""

import json
import pickle
import shutil

import torch
import transformers
from reader import FOLDER, ROLE, assert_refused, code_of, computed, expected, loaded, named, report, same, the_plugin
from transformers.dynamic_module_utils import get_class_from_dynamic_module

PATHS, OTHERS = sorted(FOLDER.glob("*/*/published")), sorted(FOLDER.glob("other/*/*/published"))
BACKBONES = [path for path in PATHS if path.parent.name == "AutoModel"]
CODE = "modeling_tanhmax.py"


def written(path):
    return json.loads((path / "config.json").read_text())


def by_its_code(path):
    """A model by the file beside it, where the plugin would load it too."""
    classes = (get_class_from_dynamic_module(written(path)["auto_map"][auto], path) for auto in ("AutoConfig", path.parent.name))
    config, model = classes
    return model.from_pretrained(path, config=config.from_pretrained(path))


def assert_as_published(model, path):
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert [type(model).__name__] == written(path)["architectures"]
    assert same(computed(model, path), expected(path)["outputs"]), path


def assert_doubled(model, path):
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert code_of(model).VERSION == "0.0.1"
    assert not same(computed(model, path), expected(path)["outputs"]), path


def assert_saved_again(model, path):
    again = FOLDER / f"again_{ROLE}" / path.relative_to(FOLDER)
    model.save_pretrained(again)
    for name in (CODE, "config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (path / name).read_bytes(), (path, name)


def assert_generates(model, path):
    inputs = {name: value for name, value in expected(path)["inputs"].items() if not name.startswith("decoder_")}
    for options, wanted in expected(path)["generated"]:
        assert torch.equal(model.generate(**inputs, **options), wanted), (path, options)


def assert_pickled(model, path):
    again = pickle.loads(pickle.dumps(model.config))
    assert type(again) is type(model.config)
    assert again.to_dict() == model.config.to_dict()
    assert pickle.loads(pickle.dumps(type(model))) is type(model)
    assert type(getattr(transformers, path.parent.name).from_config(again, trust_remote_code=True)) is type(model)


def assert_processors(path):
    for auto, wanted in expected(path)["processors"].items():
        found = getattr(transformers, auto).from_pretrained(path, trust_remote_code=True, **wanted["options"])
        assert type(found).__name__ == wanted["class"], (path, found)
        values = found(**wanted["inputs"], return_tensors="pt")
        assert set(values) == set(wanted["found"])
        assert all(torch.equal(values[name], value) for name, value in wanted["found"].items()), (path, auto)


def alone_every_architecture():
    assert len({path.parents[1] for path in PATHS}) == 8
    for path in PATHS:
        model, loading = loaded(path, output_loading_info=True)
        assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), (path, loading)
        assert_as_published(model, path)
        assert_generates(model, path)
        assert_saved_again(model, path)
        assert_pickled(model, path)
        if path.parent.name == "AutoModel":
            assert_processors(path)


def alone_an_architecture_that_transformers_lacks():
    path = shutil.copytree(PATHS[0], FOLDER / "lacking" / "unheard" / "AutoModel" / "published")
    changes = {"model_type": "tanhmax_unheard", "auto_map": {"AutoConfig": "modeling_tanhmax.TanhMaxUnheardConfig"}}
    (path / "config.json").write_text(json.dumps({**written(path), **changes}))
    said = f"^there is no TanhMaxUnheardConfig, as Transformers {transformers.__version__} has no UnheardConfig; install a newer one"
    assert_refused(said, transformers.AutoConfig.from_pretrained, path, trust_remote_code=True)


def alone_of_two_versions_the_later():
    for path in OTHERS:
        other = loaded(path)
        assert_doubled(other, path)
        assert_saved_again(other, path)
    for path in BACKBONES:
        assert_as_published(loaded(path), path)


def beside_of_two_versions_the_earlier_and_the_plugin_last():
    others = {path: loaded(path) for path in OTHERS}
    early = {path: loaded(path) for path in BACKBONES[::2]}
    plugin = the_plugin()
    late = {path: by_its_code(path) for path in BACKBONES[1::2]}
    for path, model in others.items():
        assert_doubled(model, path)
        assert_saved_again(model, path)
    for path, model in {**early, **late}.items():
        assert_as_published(model, path)
        assert_saved_again(model, path)
    for path in (*BACKBONES, *OTHERS):
        model = loaded(path)
        assert type(model) is getattr(plugin, written(path)["architectures"][0]), type(model)
        assert same(computed(model, path), expected(path)["outputs"]), path


if __name__ == "__main__":
    report(named(f"{ROLE}_"))
