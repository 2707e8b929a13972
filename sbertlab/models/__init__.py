"""The building blocks of an encoder, run in order: tokens in, one vector per text out.

| from | to | blocks | file |
| --- | --- | --- | --- |
| texts | token vectors | Transformer, StaticEmbedding | `transformer` |
| token vectors | token vectors | WeightedLayerPooling, LSTM, CNN | `layers` |
| token vectors | one vector per text | Pooling | `pooling` |
| one vector | another | Dense, Normalize, LayerNorm, Dropout | `layers` |
| by kind of text | | Router (Asym) | `router` |

Every block is a `Module`: it reads and extends a dictionary of features, and `config()` returns its arguments.
"""

from sbertlab.models.layers import CNN, LSTM, Dense, Dropout, LayerNorm, Normalize, WeightedLayerPooling
from sbertlab.models.module import Features, Module, output_dimension, text_vectors
from sbertlab.models.pooling import POOLING_MODES, Pooling
from sbertlab.models.router import Asym, Router
from sbertlab.models.transformer import StaticEmbedding, TokenizerModule, Tokens, Transformer

__all__ = [
    "CNN",
    "LSTM",
    "POOLING_MODES",
    "Asym",
    "Dense",
    "Dropout",
    "Features",
    "LayerNorm",
    "Module",
    "Normalize",
    "Pooling",
    "Router",
    "StaticEmbedding",
    "TokenizerModule",
    "Tokens",
    "Transformer",
    "WeightedLayerPooling",
    "output_dimension",
    "text_vectors",
]
