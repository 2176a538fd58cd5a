"""The commands of `hf-tanhmax`, and the sentence that one ends with."""

from hf_tanhmax.cli.arguments import main

COMMANDS = [
    *("start", "convert", "train", "evaluate", "bench", "export", "push", "push-kernel", "card", "doctor", "explain", "demo"),
    *("faithfulness", "ablate", "rank-collapse"),
]


def refused(capsys, *arguments):
    """The sentence on stderr about a mistake, which is one line."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line
