"""sbertlab: build, train, compare and look at sentence embeddings."""

import sys

from sbertlab import data, evaluation, losses, models, util
from sbertlab.curation import doctor
from sbertlab.data import InputExample, helpdesk, readers
from sbertlab.data import loaders as datasets
from sbertlab.encoder import SentenceTransformer
from sbertlab.encoder import lora as adapters
from sbertlab.training import continual
from sbertlab.training.fit import fit
from sbertlab.util import SimilarityFunction

__version__ = "0.1.0"

SentenceTransformer.fit = fit  # bound here, because training lies on a floor above the encoder

_ALIASES = {
    "adapters": adapters,
    "continual": continual,
    "datasets": datasets,
    "doctor": doctor,
    "helpdesk": helpdesk,
    "readers": readers,
}
for _name, _module in _ALIASES.items():  # so that `from sbertlab.helpdesk import pairs` finds the module in its room
    sys.modules[f"{__name__}.{_name}"] = _module

__all__ = [
    "InputExample",
    "SentenceTransformer",
    "SimilarityFunction",
    "adapters",
    "continual",
    "data",
    "datasets",
    "doctor",
    "evaluation",
    "helpdesk",
    "losses",
    "models",
    "readers",
    "util",
]
