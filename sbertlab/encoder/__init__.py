"""`SentenceTransformer`: encode texts, save and load a model, keep embeddings."""

from sbertlab.encoder.sentence_transformer import SentenceTransformer

__all__ = ["SentenceTransformer"]
