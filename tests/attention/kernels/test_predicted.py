"""Predicted clock cycles per score: counted right, and the committed tables are what the counts give."""

import json

import pytest

pytest.importorskip("triton", reason="needs triton")
import predicted

TABLES = sorted(predicted.RESULTS.glob("predicted-clocks-triton-*.json"))
# An outer loop around one that multiplies, and a loop that only waits: 64 x 64 x 16 is 2 * 16 * 64 * 16 / 32 = 1024 operations a thread.
CODE = """
.L_x_0:
        /*0010*/                   IADD3 R1, R1, 0x1, RZ ;
.L_x_1:
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
        /*0028*/                   LDS.128 R8, [R2] ;
        /*0030*/              @!P0 MUFU.EX2 R4, R4 ;
        /*0040*/                   MUFU.EX2 R5, R5 ;
        /*0050*/                   FADD R4, R4, R5 ;
        /*0060*/               @P0 BRA `(.L_x_1) ;
        /*0070*/               @P1 BRA `(.L_x_0) ;
.L_x_2:
        /*0080*/                   NOP ;
        /*0090*/               @P2 BRA `(.L_x_2) ;
        /*00a0*/                   EXIT ;
"""


def test_the_innermost_loop_that_multiplies_is_counted():
    assert [len(body) for body in predicted.loops(CODE)] == [6, 2]
    loop = predicted.hot_loop(CODE, operations=256)  # 1024 of them are 4 scores
    assert loop == predicted.Loop(issue=6 / 4, special=2 / 4, shared=(32 + 16) / 4)


@pytest.mark.parametrize(
    ("name", "operations"),
    [("HGMMA.64x128x16.F32.BF16 R24", 2048), ("HMMA.16816.F32.BF16 R4", 128), ("HMMA.1688.F32.TF32 R4", 64), ("FFMA R1", 0)],
)
def test_operations_of_a_thread(name, operations):
    assert predicted.matrix_operations(name) == operations


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0", (64 + 128) * 16 * 2 / 128),
        ("HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR8].tnspB, R24, gsb0", 64 * 16 * 2 / 128),
        ("LDSM.16.MT88.4 R4, [R8]", 16),
        ("LDSM.16.M88.2 R4, [R8]", 8),
        ("LDS.64 R4, [R8]", 8),
        ("LDS.U8 R4, [R8]", 1),
        ("STS [R8+0x400], R4", 4),
        ("LDGSTS.E.BYPASS.LTC128B.128 [R8], [R4.64]", 16),
        ("LDG.E.128 R4, [R8.64]", 0),
        ("FADD R4, R4, R5", 0),
    ],
)
def test_bytes_of_shared_memory_of_a_thread(instruction, expected):
    assert predicted.shared_bytes(instruction) == expected


@pytest.mark.parametrize(
    ("loop", "limit", "overlapped", "serial"),
    [
        ((12.8, 1.0), "issue", 0.1, 0.1625),
        ((12.8, 2.0), "special", 0.125, 0.1875),
        ((6.4, 0.5), "matrix", 0.0625, 0.1125),
        ((6.4, 0.5, 12.8), "shared", 0.1, 0.15),
    ],
)
def test_the_longest_unit_is_the_limit(loop, limit, overlapped, serial):
    clocks = predicted.predict(predicted.Loop(*loop), operations=256)
    assert (clocks["limit"], clocks["overlapped"], clocks["serial"]) == (limit, pytest.approx(overlapped), pytest.approx(serial))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_tables_are_whole_rendered_from_their_counts_and_say_what_they_are(path):
    result = json.loads(path.read_text())
    assert "not measurements" in result["warning"]
    assert "not measurements" in predicted.rendered(result).splitlines()[0]
    builds = list(predicted.entries())
    assert [(each["kernel"], each["head_dim"], each["row"]) for each in result["entries"]] == [(b.kernel, b.head, b.row) for b in builds]
    for each in result["entries"]:
        operations = each["products"] * 2 * each["head_dim"]
        clocks = predicted.predict(predicted.Loop(each["instructions"], each["special_functions"], each["shared_bytes"]), operations)
        assert {name: each["clocks"][name] for name in clocks} == pytest.approx(clocks, abs=2e-4)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_what_the_rows_of_a_hopper_bring(path):
    """A fixed shift has two special functions per score and the polynomial one and a half; neither issues more than that saves."""
    entries = [each for each in json.loads(path.read_text())["entries"] if each["kernel"] == "forward" and each["weights"] == "TanhMax"]
    for each in entries:
        tile = each["tile"]
        if tile["static"]:
            assert each["special_functions"] == (1.5 if tile["polynomial"] else 2.0)
            first = next(other for other in entries if other["head_dim"] == each["head_dim"])
            assert each["clocks"]["overlapped"] < first["clocks"]["overlapped"]
