"""Whether this release of Transformers loads image processors here: 5.17 does so only beside torchvision."""

import pytest
from transformers import AutoImageProcessor


def _load():
    try:
        return bool(AutoImageProcessor.register)
    except ImportError:
        return False


load_images = pytest.mark.skipif(not _load(), reason="this release of Transformers loads image processors only beside torchvision")
