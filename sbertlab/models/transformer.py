"""Building blocks that read texts: a tokenizer, then a transformer or a table of token vectors."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sbertlab.checks import checked_number
from sbertlab.models.fast_cpu import use_fast_linear, use_short_attention
from sbertlab.models.module import Features, Module, masked_mean
from sbertlab.storage.find import find_model

ENCODER_HALVES = {kind.lower(): f"{kind}EncoderModel" for kind in ("T5", "MT5", "UMT5", "LongT5")}
"""Classes of transformers that load the encoder alone, by architecture."""


class Tokens(NamedTuple):
    """Unpadded token ids of some texts, special tokens included, and the number of truncated tokens of each text."""

    ids: list[list[int]]
    cut: list[int]


class TokenizerModule(Module):
    """What blocks that begin with a tokenizer share: texts to token ids, token ids to padded features.

    `longest_input` is the number of tokens for which the block has positions; None if there is no limit.
    """

    tokenizer: PreTrainedTokenizerBase
    do_lower_case: bool = False
    add_special_tokens: bool = True
    longest_input: int | None = None
    _max_seq_length: int | None = None

    @property
    def max_seq_length(self) -> int | None:
        """Maximum number of tokens read per text, special tokens included; set to None: the block's maximum."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        longest = self.longest_input
        if value is not None:
            fewest = max(1, self._special_count())  # the special tokens must fit
            checked_number("max_seq_length", value, fewest, math.inf if longest is None else longest, whole=True)
        self._max_seq_length = longest if value is None else int(value)

    def _special_count(self) -> int:
        return self.tokenizer.num_special_tokens_to_add() if self.add_special_tokens else 0

    def match_vocabulary(self) -> None:
        """Give tokens that were added to the tokenizer vectors of their own; a Transformer does."""

    def token_ids(self, texts: Sequence[str]) -> Tokens:
        """Tokenise without padding, truncate at `max_seq_length`, and count the truncated tokens."""
        self.match_vocabulary()
        texts = [text.lower() for text in texts] if self.do_lower_case else list(texts)
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            return self._token_ids_in_python(texts)
        backend = self.truncating_backend()
        try:
            encodings = backend.encode_batch_fast(texts, add_special_tokens=self.add_special_tokens)
        except TypeError:
            broken = next(text for text in texts if text != text.encode("utf-8", "ignore").decode())
            raise ValueError(f"{broken!r:.60} is not valid Unicode: it has half a surrogate pair") from None
        special = self._special_count()
        cut = [sum(len(rest) - special for rest in encoding.overflowing) for encoding in encodings]
        return Tokens([encoding.ids for encoding in encodings], cut)

    def truncating_backend(self) -> Tokenizer:
        """Return the tokenizer of the tokenizers library, set to truncate at `max_seq_length` and not to pad."""
        backend: Tokenizer = self.tokenizer.backend_tokenizer
        backend.no_padding()
        if self.max_seq_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(max_length=self.max_seq_length, direction=self.tokenizer.truncation_side)
        return backend

    def _token_ids_in_python(self, texts: list[str]) -> Tokens:
        """Tokenise with a tokenizer that is not one of the tokenizers library, such as ByT5's."""
        tokenizer: Any = self.tokenizer
        arguments = {"add_special_tokens": self.add_special_tokens, "verbose": False}
        whole = tokenizer(texts, **arguments)["input_ids"]
        short = tokenizer(texts, truncation=True, max_length=self.max_seq_length or 10**9, **arguments)["input_ids"]
        return Tokens(short, [len(a) - len(b) for a, b in zip(whole, short, strict=True)])

    def pad(self, ids: Sequence[Sequence[int]]) -> Features:
        """Return `input_ids` and `attention_mask`, `(batch, tokens)`, padded to the longest text, at least one.

        On the right, whatever the tokenizer says: behind padding, a token would have another absolute position.
        """
        lengths = np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids))
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # (batch, tokens)
        input_ids = np.full(mask.shape, self.tokenizer.pad_token_id or 0, dtype=np.int64)
        input_ids[mask] = np.fromiter((token for row in ids for token in row), dtype=np.int64, count=int(lengths.sum()))
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}

    def tokenize(self, texts: Sequence[str]) -> Features:
        """Return the padded features of the texts, ready for `forward`."""
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of texts, got the text {texts!r:.60}")
        return self.pad(self.token_ids(texts).ids)


class Transformer(TokenizerModule):
    """Any encoder of the transformers library: token ids to contextual token vectors; of T5, the encoder half.

    `model_name_or_path` is a folder, or a name as in `sbertlab.storage.find.find_model`; `cache_dir` holds downloads.
    `max_seq_length` is the smaller limit of tokenizer and model by default. `model_args` go to
    `AutoModel.from_pretrained`, e.g. `{"output_hidden_states": True}`, `tokenizer_args` to
    `AutoTokenizer.from_pretrained`. `do_lower_case` is for tokenizers that do not lower-case texts themselves.
    """

    auto_model: Any
    config_keys = ("max_seq_length", "do_lower_case")

    def __init__(
        self,
        model_name_or_path: str | Path,
        max_seq_length: int | None = None,
        model_args: Mapping[str, Any] | None = None,
        cache_dir: str | None = None,
        tokenizer_args: Mapping[str, Any] | None = None,
        do_lower_case: bool = False,
        tokenizer_name_or_path: str | Path | None = None,
    ) -> None:
        super().__init__()
        arguments = dict(model_args or {})
        source = {key: arguments.pop(key) for key in ("revision", "token", "local_files_only") if key in arguments}
        folder = find_model(model_name_or_path, cache_folder=cache_dir, **source)
        words = folder if tokenizer_name_or_path is None else find_model(tokenizer_name_or_path, cache_folder=cache_dir)
        config = AutoConfig.from_pretrained(folder, **arguments)
        encoder_class = getattr(transformers, ENCODER_HALVES.get(config.model_type, ""), AutoModel)
        trust = {"trust_remote_code": arguments.get("trust_remote_code", False)}
        tokenizer = AutoTokenizer.from_pretrained(words, **trust, **(tokenizer_args or {}))
        if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
            remedy = "add its tokenizer.json, or pass tokenizer_name_or_path"
            raise ValueError(f"{words} has no vocabulary, so that every word would be unknown; {remedy}")
        self._set_parts(encoder_class.from_pretrained(folder, **arguments), tokenizer, max_seq_length, do_lower_case)

    @classmethod
    def from_parts(
        cls, auto_model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None = None
    ) -> Self:
        """Make the block from a model and a tokenizer in memory, e.g. an architecture with random weights."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._set_parts(auto_model, tokenizer, max_seq_length)
        return self

    def _set_parts(
        self, auto_model: Any, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None, lower: bool = False
    ) -> None:
        self.auto_model, self.tokenizer, self.do_lower_case = auto_model, tokenizer, lower
        stated = getattr(auto_model.config, "max_position_embeddings", None)
        limits = [self.longest_input, stated, getattr(tokenizer, "model_max_length", None)]
        known = [limit for limit in limits if limit is not None and 0 < limit < 1_000_000]
        self.max_seq_length = max_seq_length if max_seq_length is not None else min(known, default=None)
        use_fast_linear(auto_model)
        use_short_attention(auto_model)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        use_short_attention(self.auto_model)

    @property
    def longest_input(self) -> int | None:  # type: ignore[override]
        """Number of tokens for which the model has positions; None if positions are relative (T5) or unknown."""
        config = self.auto_model.config
        positions = getattr(config, "max_position_embeddings", None)
        if positions is None or positions < 1 or getattr(config, "position_biased_input", True) is False:
            return None
        for name, table in self.auto_model.named_modules():
            if name.split(".")[-1] == "position_embeddings" and isinstance(table, nn.Embedding):
                # RoBERTa and its kin count positions from the padding index on: rows up to it are never used.
                unused = 0 if table.padding_idx is None else table.padding_idx + 1
                positions = min(positions, len(table.weight) - unused)
        return positions

    def token_matrix(self) -> Tensor:
        """Return the model's input embeddings, `(vocabulary, dim)`."""
        return self.auto_model.get_input_embeddings().weight

    def match_vocabulary(self) -> None:
        """Grow the input embeddings for added tokens (normal rows of their standard deviation, seeded), and warn."""
        old, size = self.token_matrix(), len(self.tokenizer)
        rows, missing = len(old), size - len(old)
        if missing <= 0:
            return
        generator = torch.Generator().manual_seed(size)
        values = torch.randn(missing, old.shape[1], generator=generator) * old.detach().float().std().cpu()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self.auto_model.resize_token_embeddings(size, mean_resizing=False)
            self.token_matrix()[rows:] = values
        grown = f"{missing} tokens were added to the tokenizer: the embedding matrix grew from {rows} to {size} rows"
        warnings.warn(f"{grown}, the new ones random; fine-tune the model before you rely on them", stacklevel=2)

    def forward(self, features: Features) -> Features:
        """Add `token_embeddings` `(batch, tokens, dim)` and, with `output_hidden_states`, `all_layer_embeddings`."""
        mask = features["attention_mask"]
        whole = mask.device.type == "cpu" and bool(mask.all())
        inputs: dict[str, Any] = {key: features[key] for key in ("input_ids", "token_type_ids") if key in features}
        inputs["attention_mask"] = None if whole else mask
        output = self.auto_model(**inputs, return_dict=True)
        features = {**features, "token_embeddings": output.last_hidden_state}
        if getattr(self.auto_model.config, "output_hidden_states", False):
            features["all_layer_embeddings"] = output.hidden_states
        return features

    def get_word_embedding_dimension(self) -> int:
        """Return the size of a token vector."""
        return self.auto_model.config.hidden_size

    def extra_repr(self) -> str:
        """Return the arguments for printing."""
        return f"max_seq_length={self.max_seq_length}, architecture={type(self.auto_model).__name__}"


class StaticEmbedding(TokenizerModule):
    """One fixed vector per token, averaged: an encoder without a transformer, hundreds of times faster.

    The tokenizer, of transformers or tokenizers, adds no special tokens; one of tokenizers keeps its own truncation.
    The vectors are `embedding_weights` `(vocabulary, dim)`, copied, or normal random rows (seed 0) of `embedding_dim`.
    """

    add_special_tokens = False

    def __init__(
        self, tokenizer: Any, embedding_weights: Tensor | np.ndarray | None = None, embedding_dim: int | None = None
    ) -> None:
        super().__init__()
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            self.tokenizer = tokenizer
        else:
            self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
            self.max_seq_length = (tokenizer.truncation or {}).get("max_length")
        rows = len(self.tokenizer)
        if embedding_weights is None:
            embedding_weights = torch.randn(rows, embedding_dim or 0, generator=torch.Generator().manual_seed(0))
        weights = torch.as_tensor(embedding_weights, dtype=torch.float32).detach().clone()
        if weights.dim() != 2 or len(weights) < rows or weights.shape[1] < 1:
            found = tuple(weights.shape)
            raise ValueError(f"embedding_weights must have the shape ({rows}, dim), one row per token, got {found}")
        self.embedding = nn.EmbeddingBag.from_pretrained(weights, freeze=False, mode="mean")

    @classmethod
    def from_transformer(cls, transformer: Transformer) -> Self:
        """Take the token vectors of a transformer: what it knows before any attention."""
        transformer.match_vocabulary()
        self = cls(transformer.tokenizer, transformer.token_matrix())
        self.do_lower_case = transformer.do_lower_case
        return self

    def forward(self, features: Features) -> Features:
        """Add `sentence_embedding` `(batch, dim)`, the mean of the token vectors, and the `token_embeddings`."""
        mask = features["attention_mask"].bool()
        vectors = F.embedding(features["input_ids"], self.embedding.weight)  # (batch, tokens, dim)
        return {**features, "token_embeddings": vectors, "sentence_embedding": masked_mean(vectors, mask)}

    def get_sentence_embedding_dimension(self) -> int:
        """Return the size of the vectors."""
        return self.embedding.embedding_dim

    get_word_embedding_dimension = get_sentence_embedding_dimension
