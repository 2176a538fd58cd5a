"""Tensors in a folder: whole files, a record of what is run, digests."""

import pytest
import torch

from hf_tanhmax.conversion.streams import Streams, digest_of_tensors, digest_of_weights


def test_what_is_shared_is_kept_once(tmp_path):
    streams, large = Streams(tmp_path / "new" / "folder"), torch.randn(1000)
    streams.save("a/b/0", [((), {"mask": large, "kind": "x"})] * 30)
    assert (streams.folder / "a/b/0").stat().st_size < 2 * 4000 + 4000
    found = streams.load("a/b/0")
    assert len(found) == 30
    assert torch.equal(found[29][1]["mask"], large)
    assert streams.has("a/b/0")
    assert not streams.has("a/b")
    streams.drop("a/b")
    streams.drop("a/b")
    assert not streams.has("a/b/0")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_come_back_to_the_bit(dtype, tmp_path):
    streams, value = Streams(tmp_path), torch.randn(3, 5).to(dtype)
    streams.save("value", value)
    assert torch.equal(streams.load("value"), value)


@pytest.mark.parametrize("error", [OSError("No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")])
def test_a_full_disk(error, tmp_path, monkeypatch):
    streams = Streams(tmp_path)

    def failing(*_):
        raise error

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match=r"cannot write .*value: .*(space|failed).*; make room there, or name another folder"):
        streams.save("value", torch.ones(3))
    assert not streams.has("value")


def test_a_file_that_was_not_finished_is_none(tmp_path):
    streams = Streams(tmp_path)
    (tmp_path / "value.partial").write_bytes(b"PK")
    assert not streams.has("value")
    streams.save("value", torch.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["value"]


def test_a_record_is_of_one_run(tmp_path):
    streams = Streams(tmp_path)
    streams.begin({"weights": "a", "batches": ["b"]})
    streams.begin({"weights": "a", "batches": ["b"]})
    with pytest.raises(ValueError, match="holds a refit with other batches; continue with the same, or name another folder"):
        streams.begin({"weights": "a", "batches": ["b", "c"]})
    with pytest.raises(ValueError, match="is no record of a refit; delete it, or name another folder"):
        streams.begin({"others": 1})


def test_digests():
    one, other = torch.nn.Linear(300, 200), torch.nn.Linear(300, 200)
    assert digest_of_weights(one) == digest_of_weights(one)
    assert digest_of_weights(one) != digest_of_weights(other)
    assert digest_of_weights(one) != digest_of_weights(one.bfloat16())
    assert digest_of_tensors(torch.ones(2, 3)) == digest_of_tensors(torch.ones(3, 2).T.contiguous())
    assert digest_of_tensors(torch.ones(2, 3)) != digest_of_tensors(torch.ones(3, 2))
    assert digest_of_tensors(torch.ones(2), torch.zeros(2)) != digest_of_tensors(torch.zeros(2), torch.ones(2))
    assert digest_of_tensors(torch.tensor(1), torch.ones(2, dtype=torch.bool)) != digest_of_tensors(torch.tensor(2), torch.ones(2))
