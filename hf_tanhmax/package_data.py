"""Where data files such as recipes lie: inside the package where a wheel installed it, beside it in a checkout."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def data_folder(name: str) -> Path:
    """The folder of that name, such as `recipes` or `model_cards`.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"hf_tanhmax lacks its folder {name!r}; install hf-tanhmax again")
