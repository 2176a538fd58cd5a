"""The one error that is the user's to mend."""


class RecipeError(Exception):
    """Something in what the user gave that cannot work; the message is one sentence that says what, and it ends the program with 2."""
