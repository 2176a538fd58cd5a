"""Tensor parallelism over two processes for every family that has a plan: logits, generated tokens, and what is saved again.

Training, settings by layer and live models are in `test_distributed`.
"""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import Checks, launch, main, passed, raises

checks = Checks()
SHARED = Path(sys.argv[1]) if __name__ == "__main__" else Path()
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma")
SIZES = {
    "vocab_size": 54,
    "hidden_size": 24,
    "head_dim": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 14,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    built_for = torch.accelerator.current_accelerator()
    if built_for is not None:
        pytest.skip(f"DistributedConfig would use {built_for.type}, as this torch is built for it")
    return launch(__file__, tmp_path_factory.mktemp("shared"))


def saved(family, **changes):
    """A model, the same in both processes, and the folder that one of them saved it in."""
    import hf_tanhmax
    from hf_tanhmax.integration.registration import SCORE_BIAS

    torch.manual_seed(0)
    config = getattr(hf_tanhmax, f"TanhMax{family}Config")(**SIZES | changes)
    model = getattr(hf_tanhmax, f"TanhMax{family}ForCausalLM")(config).eval()
    for name, bias in model.named_parameters():
        if name.endswith(SCORE_BIAS):
            bias.data = torch.linspace(0.1, 1.5, len(bias))
    folder = SHARED / f"{family}-{len(list(SHARED.iterdir()))}"
    dist.barrier()
    if dist.get_rank() == 0:
        model.save_pretrained(folder)
    dist.barrier()
    return model, folder


def in_halves(folder):
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    return AutoModelForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(tp_plan="auto")).eval()


@checks
def logits_tokens_and_what_is_saved():
    from families import text

    for family in FAMILIES:
        for settings in ({"tanhmax_polarity": "learned"}, {"tanhmax_shift": "balanced", "tanhmax_layers": [1]}):
            model, folder = saved(family, **settings)
            halves = in_halves(folder)
            attention = halves.model.layers[1].self_attn
            assert attention.q_proj.weight.to_local().shape[0] == 12
            assert attention.k_proj.weight.to_local().shape[0] == 6
            rows = text(3, 11)
            with torch.no_grad():
                torch.testing.assert_close(halves(rows).logits, model(rows).logits, atol=1e-5, rtol=1e-4)
            greedy = {"max_new_tokens": 8, "do_sample": False}
            assert torch.equal(halves.generate(rows[:, :5], **greedy), model.generate(rows[:, :5], **greedy))
            again = folder.with_name(f"{folder.name}-again")
            halves.save_pretrained(again)
            dist.barrier()
            loaded = type(model).from_pretrained(again)
            assert loaded.config.tanhmax_settings == model.config.tanhmax_settings
            for (name, value), (_, wanted) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
                assert torch.equal(value, wanted), name


@checks
def heads_that_two_processes_cannot_share_are_refused():
    for heads, key_heads in ((3, 3), (4, 1), (6, 3)):
        for polarity in (0.5, "learned"):
            _, folder = saved("Llama", num_attention_heads=heads, num_key_value_heads=key_heads, tanhmax_polarity=polarity)
            sentence = (
                f"tensor parallelism of 2 processes cannot share out the {heads} heads and {key_heads} key-value heads of LlamaAttention"
            )
            with raises(ValueError, sentence):
                in_halves(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", checks)
def test_tensor_parallel(name, found):
    passed(name, found)


if __name__ == "__main__":
    main(checks, SHARED)
