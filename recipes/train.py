"""Train a BERT, a ViT or a LLaMA with softmax or TanhMax attention, from one YAML file.

    accelerate launch -m recipes.train recipes/bert/text_classification/tanhmax.yaml --compare_with softmax

The work is done by `hf_tanhmax.training`.
"""

import sys

from hf_tanhmax.training.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
