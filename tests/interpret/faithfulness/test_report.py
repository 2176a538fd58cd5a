"""The table and JSON of a report made by hand."""

import json
import math

from hf_tanhmax.interpret.faithfulness.intervals import mean_with_interval
from hf_tanhmax.interpret.faithfulness.report import FaithfulnessReport

VALUES = {"mask_tau": {"weights": (0.5, math.nan, 0.7), "random": (0.0, 0.1, -0.1)}, "permutation": {"": (0.2, 0.2, 0.2)}}


def report():
    cells = {measure: {method: mean_with_interval(values, 0) for method, values in of.items()} for measure, of in VALUES.items()}
    return FaithfulnessReport("m", (True, False), ("weights", "random"), ("mask_tau", "permutation"), VALUES, cells)


def test_the_table():
    assert report().table().splitlines() == [
        "| method  | mask tau ↑            |",
        "|---------|-----------------------|",
        "| weights | 0.600 [0.500, 0.700]  |",
        "| random  | 0.000 [-0.100, 0.100] |",
        "",
        "m (TanhMax in part), 3 texts; mean over texts and a bootstrap interval of 95%.",
        "permutation median: 0.200 [0.200, 0.200].",
        "Not defined in every text: mask tau of weights in 2.",
    ]


def test_json_has_null_where_nothing_is_defined():
    read = json.loads(report().to_json())
    assert read["values"]["mask_tau"]["weights"] == [0.5, None, 0.7]
    assert read["cells"]["mask_tau"]["weights"]["n"] == 2
    assert read["signed"] == [True, False]
