"""Whether this release of Transformers loads image processors here: 5.17 does so only beside torchvision."""

import pytest
from transformers import AutoImageProcessor


def images_load():
    try:
        return bool(AutoImageProcessor.register)
    except ImportError:
        return False


load_images = pytest.mark.skipif(not images_load(), reason="this release of Transformers loads image processors only beside torchvision")
