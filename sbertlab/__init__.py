"""sbertlab: build, train, compare and look at sentence embeddings."""

from sbertlab import adapters, data, evaluation, losses, models, readers, util
from sbertlab import loaders as datasets
from sbertlab.data import InputExample
from sbertlab.encoder import SentenceTransformer
from sbertlab.training import fit
from sbertlab.util import SimilarityFunction

__version__ = "0.1.0"

SentenceTransformer.fit = (
    fit  # training lies a floor above the encoder and is bound here, so that imports point downwards
)

__all__ = [
    "InputExample",
    "SentenceTransformer",
    "SimilarityFunction",
    "adapters",
    "data",
    "datasets",
    "evaluation",
    "losses",
    "models",
    "readers",
    "util",
]
