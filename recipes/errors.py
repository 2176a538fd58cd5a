"""The two ways in which a run ends early that are no fault of the program."""


class RecipeError(Exception):
    """Something in what the user gave that cannot work; the message is one sentence that says what, and it ends the program with 2."""


class Interrupted(Exception):  # noqa: N818, nothing went wrong
    """The user stopped the run, which saved a checkpoint; the message says how to go on, and it ends the program with 130."""
