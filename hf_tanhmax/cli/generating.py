"""What goes with `--generate` and `--whole-generation` of the command `explain`; what would not be heard is refused."""

import argparse

GENERATING = "--generate needs a causal language model, one --text, no --target and no --position"
WHOLE = "--whole-generation needs --generate N and an --out that ends with .html, .json, .png or .svg, and takes no --methods"
UNHEARD = ("twin", "layers", "picture", "head", "scores")  # by a whole generation that is not in a page


def check_generating(options: argparse.Namespace) -> None:
    """Refuse options that explanations of written tokens would leave out.

    Args:
        options: of `explain`.

    Raises:
        ValueError: such an option.
    """
    suffix = options.out.suffix
    if options.whole_generation and (not options.generate or options.methods or suffix not in (".html", ".json", ".png", ".svg")):
        raise ValueError(WHOLE)
    if not options.generate:
        return
    if len(options.text or ()) != 1 or options.text_pair or options.target or options.position is not None:
        raise ValueError(GENERATING)
    if options.max_length is not None:
        raise ValueError("--max-length does not go with --generate, as the text grows; give a shorter --text")
    unheard = [name for name in UNHEARD if getattr(options, name) is not None]
    if options.whole_generation and suffix != ".html" and unheard:
        raise ValueError(f"--{unheard[0]} does not go with --whole-generation and {suffix}; leave it away, or name a page (.html)")
    if options.generate > 1 and (options.head or options.picture not in (None, "next")):
        raise ValueError("of several tokens only --picture next can be drawn; leave --picture and --head away, or give --generate 1")
