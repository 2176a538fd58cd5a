"""The parts of one model's work, each as the whole has it."""

from hf_tanhmax.choices import CONTROL
from hf_tanhmax.interpret.faithfulness.one_model import jobs_of


def test_seeds_enter_where_something_is_drawn():
    jobs = jobs_of(("weights", CONTROL), ("mask_tau", "soft_sufficiency", "permutation"), 2)
    assert [tuple(job) for job in jobs] == [
        ("weights", 0, ("mask_tau", "soft_sufficiency")),
        ("weights", 1, ("soft_sufficiency",)),
        (CONTROL, 0, ("mask_tau", "soft_sufficiency")),
        (CONTROL, 1, ("mask_tau", "soft_sufficiency")),
        ("", 0, ("permutation",)),
        ("", 1, ("permutation",)),
    ]
