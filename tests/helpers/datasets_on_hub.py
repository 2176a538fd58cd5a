"""What the replication reads from the Hub: IMDB and AG News, in a fresh process whose only Hub is on loopback.

    python datasets_on_hub.py SETTINGS

Prints a line for each data set: rows of each split, labels, and where they came from. `HF_ENDPOINT` says where the Hub is.
"""

import sys
from pathlib import Path

from recipes.paper.settings import read_sets
from recipes.paper.sources import load

if __name__ == "__main__":
    sets = read_sets(Path(sys.argv[1]))
    for name in ("imdb", "ag_news"):
        corpus = load(sets[name], [], hub=True)
        labels = sorted(set(corpus.train.labels.tolist()))
        print(name, len(corpus.train.labels), len(corpus.test.labels), labels, corpus.fingerprint["source"], " ".join(corpus.words[2:6]))
