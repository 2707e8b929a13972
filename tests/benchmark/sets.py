"""What tests of data sets share: files as a set has them, and a model whose embeddings can be counted."""

import gzip


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


class Letters:
    """Counts a, b and everything, and remembers what it was asked; its cosine ranks otherwise than its distances."""

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked += texts
        return [[text.count("a"), text.count("b"), 1] for text in texts]
