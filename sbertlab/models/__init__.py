"""The building blocks of an encoder, run in order: tokens in, one vector a text out.

| from | to | blocks | file |
| --- | --- | --- | --- |
| texts | token vectors | Transformer, StaticEmbedding | `text_modules` |
| token vectors | token vectors | WeightedLayerPooling, LSTM, CNN | `token_modules` |
| token vectors | one vector a text | Pooling | `pooling` |
| one vector | another | Dense, Normalize, LayerNorm, Dropout | `vector_modules` |
| by kind of text | | Router (Asym) | `router` |

Every block is a `Module`: it reads and extends a dictionary of features and can say how it is made (`config`).
"""

from sbertlab.models.layers import CNN, LSTM, WeightedLayerPooling
from sbertlab.models.module import Features, Module, features_to, output_dimension, text_vectors
from sbertlab.models.pooling import POOLING_MODES, Pooling
from sbertlab.models.router import Asym, Router
from sbertlab.models.transformer import StaticEmbedding, TokenizerModule, Tokens, Transformer
from sbertlab.models.vector_modules import Dense, Dropout, LayerNorm, Normalize

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
    "features_to",
    "output_dimension",
    "text_vectors",
]
