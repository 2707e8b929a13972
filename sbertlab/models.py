"""The building blocks of an encoder, run in order: tokens in, one vector a text out.

Every block is a `Module`: it reads and extends a dictionary of features and can say how it is made (`config`). The
features are `input_ids` and `attention_mask` `(batch, tokens)`, `token_embeddings` `(batch, tokens, dim)`,
`all_layer_embeddings` (one such tensor a layer) and `sentence_embedding` `(batch, dim)`.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sbertlab.kernels import use_fast_linear
from sbertlab.model_source import find_model

Features = dict[str, Any]
"""What flows through the blocks: tensors by name, and `all_layer_embeddings`, a tuple of tensors."""


class Module(nn.Module):
    """A building block: `forward(features) -> features`, and `config()` with the arguments that make it again."""

    config_keys: tuple[str, ...] = ()
    """The constructor's arguments that are attributes of the same name and are kept."""

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON types, in the key set of sentence-transformers 2.2."""
        return {key: getattr(self, key) for key in self.config_keys}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make the block, untrained, from what `config()` returned."""
        return cls(**config)


def features_to(features: Mapping[str, Any], device: torch.device) -> Features:
    """Return the features with every tensor on `device`."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in features.items()
    }


def text_vectors(features: Features) -> Tensor:
    """Return `sentence_embedding` `(batch, dim)`.

    Raises:
        ValueError: no block has made one vector of a text yet.
    """
    if "sentence_embedding" not in features:
        raise ValueError("no building block has made one vector of a text; put a Pooling behind the Transformer")
    return features["sentence_embedding"]


# -- From texts to token vectors ---------------------------------------------------------------------------------------


class Tokens:
    """Token ids of some texts, unpadded, and how many tokens of each did not fit.

    Args:
        ids: token ids of each text, special tokens included.
        cut: tokens lost to the length limit, by text.
    """

    def __init__(self, ids: list[list[int]], cut: list[int]) -> None:
        self.ids = ids
        self.cut = cut

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text, as the encoder sees it."""
        return [len(ids) for ids in self.ids]


class TokenizerModule(Module):
    """What blocks that begin with a tokenizer share: texts to token ids, token ids to padded features."""

    tokenizer: PreTrainedTokenizerBase
    do_lower_case: bool = False
    add_special_tokens: bool = True
    _max_seq_length: int | None = None

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of a text that are read, special tokens included; None: no limit."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        fewest = max(1, self._special_count())
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < fewest):
            raise ValueError(
                f"max_seq_length must be None or a whole number of tokens, at least {fewest} so that the special "
                f"tokens fit, got {value!r}"
            )
        self._max_seq_length = None if value is None else int(value)

    def _special_count(self) -> int:
        return self.tokenizer.num_special_tokens_to_add() if self.add_special_tokens else 0

    def token_matrix(self) -> Tensor | None:
        """Return the embedding matrix, one row a token of the vocabulary; None where there is none."""
        raise NotImplementedError

    def resize_token_matrix(self, rows: int) -> None:
        """Add rows to the embedding matrix, with any values."""
        raise NotImplementedError

    def match_vocabulary(self) -> None:
        """Give tokens that were added to the tokenizer a row in the embedding matrix, seeded, and say so.

        The rows are normally distributed, with the standard deviation of the matrix.
        """
        old = self.token_matrix()
        rows = len(self.tokenizer) if old is None else len(old)
        missing = len(self.tokenizer) - rows
        if old is None or missing <= 0:
            return
        generator = torch.Generator().manual_seed(len(self.tokenizer))
        values = torch.randn(missing, old.shape[1], generator=generator) * old.detach().float().std().cpu()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self.resize_token_matrix(len(self.tokenizer))
            cast(Tensor, self.token_matrix())[rows:] = values
        warnings.warn(
            f"{missing} tokens were added to the tokenizer: the embedding matrix grew from {rows} to "
            f"{len(self.tokenizer)} rows, the new ones random; fine-tune before you rely on them",
            stacklevel=2,
        )

    def token_ids(self, texts: Sequence[str]) -> Tokens:
        """Tokenise without padding, cut at `max_seq_length`, and count what was cut.

        Raises:
            TypeError: one string instead of several, or an element that is no string; its position and type are named.
            ValueError: a text that is not valid Unicode.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be several texts, got one string; write [{texts!r:.60}]")
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(
                    f"texts[{position}] is {type(text).__name__} ({text!r:.60}), expected str; "
                    "convert the column with .astype(str) or drop missing values first"
                )
        self.match_vocabulary()
        texts = [text.lower() for text in texts] if self.do_lower_case else list(texts)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return self._token_ids_slowly(texts)
        backend.no_padding()
        if self.max_seq_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(max_length=self.max_seq_length, direction=self.tokenizer.truncation_side)
        try:
            encodings = backend.encode_batch_fast(texts, add_special_tokens=self.add_special_tokens)
        except TypeError:
            broken = next(text for text in texts if text != text.encode("utf-8", "ignore").decode())
            raise ValueError(
                f"{broken!r:.60} is not valid Unicode: it holds half of a surrogate pair; "
                'repair it with text.encode("utf-8", "ignore").decode()'
            ) from None
        special = self._special_count()
        cut = [sum(len(rest) - special for rest in encoding.overflowing) for encoding in encodings]
        return Tokens([encoding.ids for encoding in encodings], cut)

    def _token_ids_slowly(self, texts: list[str]) -> Tokens:
        """The same by a tokenizer that is written in Python."""
        if not texts:
            return Tokens([], [])
        tokenizer: Any = self.tokenizer
        arguments = {"padding": False, "add_special_tokens": self.add_special_tokens}
        whole = tokenizer(texts, truncation=False, verbose=False, **arguments)["input_ids"]
        if self.max_seq_length is None:
            return Tokens(whole, [0] * len(whole))
        short = tokenizer(texts, truncation=True, max_length=self.max_seq_length, **arguments)["input_ids"]
        return Tokens(short, [len(a) - len(b) for a, b in zip(whole, short, strict=True)])

    def pad(self, ids: Sequence[Sequence[int]]) -> Features:
        """Return `input_ids` and `attention_mask`, `(batch, tokens)`, padded to the longest of the batch.

        Where no text has a token, there is one column of padding, so that what follows has something to run on.

        >>> block = StaticEmbedding.__new__(StaticEmbedding)
        >>> block.__dict__["tokenizer"] = type("Tokenizer", (), {"pad_token_id": 0, "padding_side": "right"})()
        >>> block.pad([[5, 6], [7]])["input_ids"].tolist()
        [[5, 6], [7, 0]]
        """
        lengths = np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids))
        columns = np.arange(lengths.max(initial=1))
        if self.tokenizer.padding_side == "left":
            columns = columns[::-1]
        mask = columns < lengths[:, None]  # (batch, tokens)
        input_ids = np.full(mask.shape, self.tokenizer.pad_token_id or 0, dtype=np.int64)
        input_ids[mask] = np.fromiter((token for row in ids for token in row), dtype=np.int64, count=int(lengths.sum()))
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}

    def tokenize(self, texts: Sequence[str]) -> Features:
        """Return the padded features of the texts, ready for `forward`."""
        return self.pad(self.token_ids(texts).ids)


class Transformer(TokenizerModule):
    """Any encoder of the transformers library: token ids to contextual token vectors; of T5, the encoder half.

    Args:
        model_name_or_path: a folder, a name on the Hub or one of the packaged models (`sbertlab.model_source`).
        max_seq_length: texts are cut after so many tokens; None takes the smaller of the tokenizer's and the model's
            limit.
        model_args: passed to transformers' `AutoConfig.from_pretrained`, e.g. `{"output_hidden_states": True}`;
            `dtype`, `attn_implementation` and `trust_remote_code` go to the model.
        cache_dir: where downloads are kept.
        tokenizer_args: passed to `AutoTokenizer.from_pretrained`.
        do_lower_case: lower-case texts before tokenising, for tokenizers that do not do it themselves.
        tokenizer_name_or_path: takes the tokenizer from elsewhere.

    Raises:
        FileNotFoundError: the model cannot be found; the message says what was tried.
        ValueError: the folder holds no encoder that transformers can load, or no vocabulary; the limit is beyond the
            model's.
    """

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
        to_model = {
            key: arguments.pop(key) for key in ("dtype", "torch_dtype", "attn_implementation") if key in arguments
        }
        trust = {"trust_remote_code": bool(arguments.pop("trust_remote_code", False))}
        source = {key: arguments.pop(key) for key in ("revision", "token", "local_files_only") if key in arguments}
        folder = find_model(model_name_or_path, cache_folder=cache_dir, **source)
        words = folder if tokenizer_name_or_path is None else find_model(tokenizer_name_or_path, cache_folder=cache_dir)
        try:
            config = AutoConfig.from_pretrained(folder, **trust, **arguments)
            encoder_class = getattr(transformers, ENCODER_HALVES.get(config.model_type, ""), AutoModel)
            self.auto_model = encoder_class.from_pretrained(folder, config=config, **trust, **to_model)
            self.tokenizer = AutoTokenizer.from_pretrained(words, **trust, **dict(tokenizer_args or {}))
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder} holds no encoder and tokenizer that transformers can load: {error}") from error
        if len(set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens)) < 2:
            raise ValueError(
                f"{words} holds no vocabulary: its tokenizer would read every word as unknown; "
                "add its tokenizer.json, or take the tokenizer from elsewhere by tokenizer_name_or_path"
            )
        self.do_lower_case = do_lower_case
        self._adopt(max_seq_length)

    @classmethod
    def from_parts(
        cls, auto_model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None = None
    ) -> Transformer:
        """Make the block from a model and a tokenizer in memory, e.g. an architecture with random weights."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self.auto_model, self.tokenizer, self.do_lower_case = auto_model, tokenizer, False
        self._adopt(max_seq_length)
        return self

    def _adopt(self, max_seq_length: int | None) -> None:
        """Settle the length limit and the linear layers once model and tokenizer are there."""
        stated = getattr(self.auto_model.config, "max_position_embeddings", None)
        limits = [self.longest_input, stated, getattr(self.tokenizer, "model_max_length", None)]
        known = [limit for limit in limits if limit is not None and 0 < limit < 1_000_000]
        self.max_seq_length = max_seq_length if max_seq_length is not None else min(known, default=None)
        use_fast_linear(self.auto_model)

    @property
    def longest_input(self) -> int | None:
        """Tokens for which the model has positions; None where positions are relative (T5) or unknown."""
        config = self.auto_model.config
        positions = getattr(config, "max_position_embeddings", None)
        if positions is None or positions < 1 or getattr(config, "position_biased_input", True) is False:
            return None
        tables = [
            block
            for name, block in self.auto_model.named_modules()
            if name.split(".")[-1] == "position_embeddings" and isinstance(block, nn.Embedding)
        ]
        # RoBERTa and its kin count positions from the padding index on: the rows up to it are never a token's.
        unused = [0 if table.padding_idx is None else table.padding_idx + 1 for table in tables]
        return min([positions, *(len(table.weight) - rows for table, rows in zip(tables, unused, strict=True))])

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of a text that are read, special tokens included; set to None, as many as the model can."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        longest = self.longest_input
        if isinstance(value, Integral) and longest is not None and value > longest:
            raise ValueError(
                f"max_seq_length is {value}, but {self.auto_model.config.model_type} has positions for {longest} "
                f"tokens; set it to at most {longest}"
            )
        TokenizerModule.max_seq_length.fset(self, longest if value is None else value)  # type: ignore[attr-defined]

    def token_matrix(self) -> Tensor | None:
        """Return the model's input embeddings, `(vocabulary, dim)`; None for models that read characters."""
        try:
            return self.auto_model.get_input_embeddings().weight
        except NotImplementedError:
            return None

    def resize_token_matrix(self, rows: int) -> None:
        """Let transformers grow the input embeddings, and what is tied to them."""
        self.auto_model.resize_token_embeddings(rows, mean_resizing=False)

    def forward(self, features: Features) -> Features:
        """Add `token_embeddings` `(batch, tokens, dim)` and, with `output_hidden_states`, `all_layer_embeddings`."""
        mask = features["attention_mask"]
        whole = mask.device.type == "cpu" and bool(mask.all())
        inputs = {"input_ids": features["input_ids"], "attention_mask": None if whole else mask}
        if "token_type_ids" in features:
            inputs["token_type_ids"] = features["token_type_ids"]
        output = self.auto_model(**inputs, return_dict=True)
        features = {**features, "token_embeddings": output.last_hidden_state}
        if getattr(self.auto_model.config, "output_hidden_states", False):
            features["all_layer_embeddings"] = output.hidden_states
        return features

    def get_word_embedding_dimension(self) -> int:
        """Return the size of a token vector."""
        config = self.auto_model.config
        return getattr(config, "hidden_size", None) or config.d_model

    def extra_repr(self) -> str:
        """Return what printing the block says of it."""
        return f"max_seq_length={self.max_seq_length}, architecture={type(self.auto_model).__name__}"


ENCODER_HALVES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
}
"""Classes of transformers that load the encoder alone, by architecture."""


class StaticEmbedding(TokenizerModule):
    """One fixed vector a token, averaged: an encoder without a transformer, hundreds of times faster.

    The tokenizer adds no special tokens here. One of the tokenizers library keeps the truncation that it comes with.

    Args:
        tokenizer: a tokenizer of transformers or tokenizers.
        embedding_weights: `(vocabulary, dim)`, copied; random normal rows (seed 0) when only `embedding_dim` is given.
        embedding_dim: size of the vectors when there are no weights.

    Raises:
        ValueError: neither or both of weights and dimension, or weights of the wrong shape.
    """

    add_special_tokens = False

    def __init__(
        self, tokenizer: Any, embedding_weights: Tensor | np.ndarray | None = None, embedding_dim: int | None = None
    ) -> None:
        super().__init__()
        if (embedding_weights is None) == (embedding_dim is None):
            raise ValueError("give either embedding_weights (vocabulary, dim) or embedding_dim, not both or neither")
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
            raise ValueError(
                f"embedding_weights must have shape ({rows}, dim), one row a token, got {tuple(weights.shape)}"
            )
        self.embedding = nn.EmbeddingBag.from_pretrained(weights, freeze=False, mode="mean")

    @classmethod
    def from_transformer(cls, transformer: Transformer) -> StaticEmbedding:
        """Cut the token vectors out of a transformer: what it knows before any attention."""
        transformer.match_vocabulary()
        self = cls(transformer.tokenizer, transformer.token_matrix())
        self.do_lower_case = transformer.do_lower_case
        return self

    def token_matrix(self) -> Tensor:
        """Return the token vectors, `(vocabulary, dim)`."""
        return self.embedding.weight

    def resize_token_matrix(self, rows: int) -> None:
        """Add rows of zeros."""
        old = self.embedding.weight
        grown = torch.cat([old.detach(), old.new_zeros(rows - len(old), old.shape[1])])
        self.embedding = nn.EmbeddingBag.from_pretrained(grown, freeze=not old.requires_grad, mode="mean")

    def forward(self, features: Features) -> Features:
        """Add `sentence_embedding` `(batch, dim)`, the mean of the token vectors, and the `token_embeddings`."""
        mask = features["attention_mask"].bool()
        vectors = F.embedding(features["input_ids"], self.embedding.weight)  # (batch, tokens, dim)
        return {**features, "token_embeddings": vectors, "sentence_embedding": masked_mean(vectors, mask)}

    def get_sentence_embedding_dimension(self) -> int:
        """Return the size of the vectors."""
        return self.embedding.embedding_dim

    get_word_embedding_dimension = get_sentence_embedding_dimension


# -- From token vectors to token vectors -------------------------------------------------------------------------------


class WeightedLayerPooling(Module):
    """A learned mix of the transformer's layers: `token_embeddings = sum_l w_l * layer_l / sum_l w_l`.

    Needs `Transformer(..., model_args={"output_hidden_states": True})`.

    Args:
        word_embedding_dimension: size of a token vector.
        num_hidden_layers: layers of the transformer, without the embedding layer.
        layer_start: first layer that takes part; 0 is the embedding layer.
        layer_weights: `(num_hidden_layers + 1 - layer_start,)` to begin with; all 1 when None.

    Raises:
        ValueError: no layer takes part, or there are more or fewer weights than layers.
    """

    config_keys = ("word_embedding_dimension", "layer_start", "num_hidden_layers")

    def __init__(
        self,
        word_embedding_dimension: int,
        num_hidden_layers: int = 12,
        layer_start: int = 4,
        layer_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        count = num_hidden_layers + 1 - layer_start
        if not 0 <= layer_start <= num_hidden_layers:
            raise ValueError(f"layer_start must lie between 0 and {num_hidden_layers}, the last, got {layer_start}")
        weights = torch.ones(count) if layer_weights is None else torch.as_tensor(layer_weights, dtype=torch.float32)
        if weights.shape != (count,):
            raise ValueError(
                f"layer_weights must hold one weight for each of the layers {layer_start} to {num_hidden_layers}, "
                f"shape ({count},), got {tuple(weights.shape)}"
            )
        self.word_embedding_dimension = word_embedding_dimension
        self.num_hidden_layers = num_hidden_layers
        self.layer_start = layer_start
        self.layer_weights = nn.Parameter(weights.detach().clone())

    def forward(self, features: Features) -> Features:
        """Replace `token_embeddings` `(batch, tokens, dim)` by the weighted mean over the layers."""
        if "all_layer_embeddings" not in features:
            raise ValueError(
                "WeightedLayerPooling needs all layers: put it after "
                'Transformer(..., model_args={"output_hidden_states": True})'
            )
        layers = torch.stack(list(features["all_layer_embeddings"][self.layer_start :]))  # (layers, batch, tokens, dim)
        if len(layers) != len(self.layer_weights):
            raise ValueError(
                f"num_hidden_layers={self.num_hidden_layers} and layer_start={self.layer_start} expect "
                f"{len(self.layer_weights)} layers, the transformer gave {len(layers)}"
            )
        weights = self.layer_weights.view(-1, 1, 1, 1)
        return {**features, "token_embeddings": (weights * layers).sum(dim=0) / self.layer_weights.sum()}

    def get_word_embedding_dimension(self) -> int:
        """Return the size of a token vector."""
        return self.word_embedding_dimension


class LSTM(Module):
    """A (bidirectional) LSTM over the token vectors; padding is never read.

    Args:
        word_embedding_dimension: size of the token vectors that come in.
        hidden_dim: size of the state a direction.
        num_layers: layers on top of each other.
        dropout: between layers.
        bidirectional: read backwards as well; doubles the size of the vectors.

    Raises:
        ValueError: in `forward`, padding in front of the texts.
    """

    config_keys = ("word_embedding_dimension", "hidden_dim", "num_layers", "dropout", "bidirectional")

    def __init__(
        self,
        word_embedding_dimension: int,
        hidden_dim: int,
        num_layers: int = 1,
        dropout: float = 0,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        self.word_embedding_dimension, self.hidden_dim = word_embedding_dimension, hidden_dim
        self.num_layers, self.dropout, self.bidirectional = num_layers, dropout, bidirectional
        self.encoder = nn.LSTM(
            word_embedding_dimension,
            hidden_dim,
            num_layers,
            dropout=dropout,
            bidirectional=bidirectional,
            batch_first=True,
        )

    def forward(self, features: Features) -> Features:
        """Replace `token_embeddings` by `(batch, tokens, hidden_dim * directions)`."""
        vectors, mask = features["token_embeddings"], features["attention_mask"]
        lengths = mask.sum(dim=1).clamp(min=1).cpu()
        if mask.shape[1] > 1 and bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ValueError('LSTM needs the padding behind the texts: set model.tokenizer.padding_side = "right"')
        packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        states, _ = self.encoder(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=vectors.shape[1])
        return {**features, "token_embeddings": states}

    def get_word_embedding_dimension(self) -> int:
        """Return the size of a token vector that comes out."""
        return self.hidden_dim * (2 if self.bidirectional else 1)


class CNN(Module):
    """Convolutions of several widths over the token vectors, concatenated.

    Args:
        in_word_embedding_dimension: size of the token vectors that come in.
        out_channels: vectors' size a width.
        kernel_sizes: widths in tokens, odd.
        stride_sizes: one stride a width; all 1 when None. Only 1 keeps one vector a token.

    Raises:
        ValueError: no width, an even one, or a stride other than 1.
    """

    config_keys = ("in_word_embedding_dimension", "out_channels", "kernel_sizes")

    def __init__(
        self,
        in_word_embedding_dimension: int,
        out_channels: int = 256,
        kernel_sizes: Sequence[int] = (1, 3, 5),
        stride_sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not kernel_sizes or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, so that a token stays in the middle, got {list(kernel_sizes)}")
        strides = [1] * len(kernel_sizes) if stride_sizes is None else list(stride_sizes)
        if strides != [1] * len(kernel_sizes):
            raise ValueError(f"stride_sizes must be 1 for every width, so that the mask still fits, got {strides}")
        self.in_word_embedding_dimension = in_word_embedding_dimension
        self.out_channels, self.kernel_sizes = out_channels, list(kernel_sizes)
        self.convs = nn.ModuleList(
            nn.Conv1d(in_word_embedding_dimension, out_channels, size, padding=size // 2) for size in kernel_sizes
        )

    def forward(self, features: Features) -> Features:
        """Replace `token_embeddings` by `(batch, tokens, out_channels * widths)`; padding enters as zeros."""
        mask = features["attention_mask"].unsqueeze(-1)
        vectors = (features["token_embeddings"] * mask).transpose(1, 2)  # (batch, dim, tokens)
        found = torch.cat([conv(vectors) for conv in self.convs], dim=1)  # (batch, out_channels * widths, tokens)
        return {**features, "token_embeddings": found.transpose(1, 2)}

    def get_word_embedding_dimension(self) -> int:
        """Return the size of a token vector that comes out."""
        return self.out_channels * len(self.kernel_sizes)


# -- From token vectors to one vector ----------------------------------------------------------------------------------


def masked_sum(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return `sum_t weights_t * vectors_t`: `(batch, tokens, dim)`, `(batch, tokens)` -> `(batch, dim)`.

    In float32 at least, also inside autocast: sums over many tokens in bfloat16 would lose what the last ones add.

    >>> masked_sum(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).tolist()
    [[4.0]]
    """
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.einsum("btd,bt->bd", vectors.to(dtype), weights.to(dtype))


def masked_mean(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over the tokens that the weights keep, in the type of the vectors; 0 where they keep none.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).tolist()
    [[2.0]]
    """
    return (masked_sum(vectors, weights) / weights.sum(dim=1, keepdim=True).clamp(min=1)).to(vectors.dtype)


POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Names of the pooling modes, in the order in which the field's flags are concatenated."""


class Pooling(Module):
    """From one vector a token to one vector a text, padding left out; several modes are concatenated.

    | mode                   | vector of the text                                            |
    | ---------------------- | ------------------------------------------------------------- |
    | `cls`                  | the first token's                                             |
    | `max`                  | the maximum over the tokens, by dimension                     |
    | `mean`                 | the mean over the tokens                                      |
    | `mean_sqrt_len_tokens` | the sum over the tokens / sqrt(number of tokens)              |
    | `weightedmean`         | the mean with weights 1, 2, 3, ... by position (SGPT)         |
    | `lasttoken`            | the last token's                                              |

    A text without a token becomes zeros in every mode.

    Args:
        word_embedding_dimension: size of a token vector.
        pooling_mode: one name, or several in the order of concatenation; "mean" when neither it nor a flag is given.
        pooling_mode_cls_token, ...: the field's flags, the other way to say it, concatenated in the order of the table.
        include_prompt: whether the tokens of a prompt take part; without them, `weightedmean` still counts their
            positions.

    Raises:
        ValueError: an unknown mode, one named twice, or none.

    >>> pooling = Pooling(1, ["max", "mean"])
    >>> tokens = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> features = {"token_embeddings": tokens, "attention_mask": torch.tensor([[1, 1, 0]])}
    >>> pooling(features)["sentence_embedding"].tolist()
    [[3.0, 2.0]]
    """

    def __init__(
        self,
        word_embedding_dimension: int,
        pooling_mode: str | Sequence[str] | None = None,
        pooling_mode_cls_token: bool | None = None,
        pooling_mode_max_tokens: bool | None = None,
        pooling_mode_mean_tokens: bool | None = None,
        pooling_mode_mean_sqrt_len_tokens: bool | None = None,
        pooling_mode_weightedmean_tokens: bool | None = None,
        pooling_mode_lasttoken: bool | None = None,
        include_prompt: bool = True,
    ) -> None:
        super().__init__()
        flags = (
            pooling_mode_cls_token,
            pooling_mode_max_tokens,
            pooling_mode_mean_tokens,
            pooling_mode_mean_sqrt_len_tokens,
            pooling_mode_weightedmean_tokens,
            pooling_mode_lasttoken,
        )
        if pooling_mode is not None:
            names = [pooling_mode] if isinstance(pooling_mode, str) else list(pooling_mode)
        elif any(flag is not None for flag in flags):
            mean = pooling_mode_mean_tokens is not False and not any(flags)
            names = [name for name, flag in zip(POOLING_MODES, flags, strict=True) if flag or (name == "mean" and mean)]
        else:
            names = ["mean"]
        names = ["mean_sqrt_len_tokens" if name == "mean_sqrt_len" else name for name in names]
        if not names or not set(names) <= set(POOLING_MODES) or len(set(names)) < len(names):
            raise ValueError(f"pooling_mode must name some of {', '.join(POOLING_MODES)}, each once, got {names}")
        self.word_embedding_dimension = word_embedding_dimension
        self.modes = tuple(names)
        self.include_prompt = include_prompt

    def forward(self, features: Features) -> Features:
        """Add `sentence_embedding` `(batch, dim * modes)`."""
        vectors = features["token_embeddings"]  # (batch, tokens, dim)
        mask = features["attention_mask"].bool()
        positions = mask.cumsum(dim=1)  # 1, 2, 3, ... from the first token, whichever side the padding is on
        if not self.include_prompt and "prompt_length" in features:
            mask = mask & (positions > features["prompt_length"])
        pooled = torch.cat([self._pool(mode, vectors, mask, positions * mask) for mode in self.modes], dim=-1)
        return {**features, "sentence_embedding": pooled.masked_fill(~mask.any(dim=1, keepdim=True), 0)}

    @staticmethod
    def _pool(mode: str, vectors: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        if mode == "mean":
            return masked_mean(vectors, mask)
        if mode == "mean_sqrt_len_tokens":
            return (masked_sum(vectors, mask) / mask.sum(dim=1, keepdim=True).clamp(min=1).sqrt()).to(vectors.dtype)
        if mode == "weightedmean":
            return masked_mean(vectors, positions)
        if mode == "max":
            return vectors.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1)
        token = mask.int().argmax(dim=1) if mode == "cls" else positions.argmax(dim=1)
        return vectors[torch.arange(len(vectors), device=vectors.device), token]

    def get_sentence_embedding_dimension(self) -> int:
        """Return the size of the text's vector: the token vectors' times the number of modes."""
        return self.word_embedding_dimension * len(self.modes)

    @property
    def pooling_output_dimension(self) -> int:
        """The field's other name for `get_sentence_embedding_dimension()`."""
        return self.get_sentence_embedding_dimension()

    def get_pooling_mode_str(self) -> str:
        """Return the modes joined by `+`."""
        return "+".join(self.modes)

    def config(self) -> dict[str, Any]:
        """Return 2.2's keys, and later ones only where they are not at their default."""
        settings: dict[str, Any] = {
            "word_embedding_dimension": self.word_embedding_dimension,
            "pooling_mode_cls_token": "cls" in self.modes,
            "pooling_mode_mean_tokens": "mean" in self.modes,
            "pooling_mode_max_tokens": "max" in self.modes,
            "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens" in self.modes,
        }
        if "weightedmean" in self.modes:
            settings["pooling_mode_weightedmean_tokens"] = True
        if "lasttoken" in self.modes:
            settings["pooling_mode_lasttoken"] = True
        if not self.include_prompt:
            settings["include_prompt"] = False
        if list(self.modes) != sorted(self.modes, key=POOLING_MODES.index):
            settings["pooling_mode"] = list(self.modes)  # the flags know no other order than their own
        return settings

    def extra_repr(self) -> str:
        """Return what printing the block says of it."""
        return f"{self.word_embedding_dimension}, {self.get_pooling_mode_str()!r}"


# -- From one vector to another ----------------------------------------------------------------------------------------


def activation_from_name(name: str) -> nn.Module:
    """Make an activation of torch from its dotted name, e.g. "torch.nn.modules.activation.Tanh".

    Raises:
        ValueError: the name is not one of torch's, or needs arguments.
    """
    module_name, _, class_name = name.rpartition(".")
    if not f"{module_name}.".startswith("torch.nn."):
        raise ValueError(f"activation_function {name!r} is not one of torch.nn; only those are loaded from a file")
    try:
        found = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"activation_function {name!r} is no activation of torch {torch.__version__}") from error
    if not isinstance(found, nn.Module):
        raise ValueError(f"activation_function {name!r} is no activation of torch {torch.__version__}")
    return found


class Dense(Module):
    """A fully connected layer on the text's vector: `activation(x @ weight.T + bias)`.

    Args:
        in_features: size of the vector that comes in.
        out_features: size of the vector that comes out.
        bias: whether there is one.
        activation_function: a module or its dotted name; None leaves the product as it is.
        init_weight: `(out_features, in_features)` to begin with.
        init_bias: `(out_features,)` to begin with.

    Raises:
        TypeError: an activation that is no module.
        ValueError: an unknown activation, or initial values of the wrong shape.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation_function: nn.Module | str | None = "torch.nn.modules.activation.Tanh",
        init_weight: Tensor | None = None,
        init_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        if isinstance(activation_function, str):
            activation_function = activation_from_name(activation_function)
        if activation_function is not None and not isinstance(activation_function, nn.Module):
            raise TypeError(f"activation_function must be a module such as nn.Tanh(), got {activation_function!r}")
        self.in_features, self.out_features = in_features, out_features
        self.activation_function = nn.Identity() if activation_function is None else activation_function
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        for name, values in {"weight": init_weight, "bias": init_bias}.items():
            parameter = getattr(self.linear, name)
            if values is None:
                continue
            if parameter is None or values.shape != parameter.shape:
                expected = "None without a bias" if parameter is None else f"of shape {tuple(parameter.shape)}"
                raise ValueError(f"init_{name} must be {expected}, got shape {tuple(values.shape)}")
            parameter.data.copy_(torch.as_tensor(values))

    def forward(self, features: Features) -> Features:
        """Replace `sentence_embedding` `(batch, in_features)` by `(batch, out_features)`."""
        vector = text_vectors(features)
        if vector.shape[-1] != self.in_features:
            raise ValueError(f"Dense(in_features={self.in_features}) was given vectors of size {vector.shape[-1]}")
        return {**features, "sentence_embedding": self.activation_function(self.linear(vector))}

    def get_sentence_embedding_dimension(self) -> int:
        """Return the size of the vector that comes out."""
        return self.out_features

    def config(self) -> dict[str, Any]:
        """Return the four keys of the field; of the activation, only its name is kept."""
        activation = type(self.activation_function)
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{activation.__module__}.{activation.__qualname__}",
        }


class Normalize(Module):
    """Scale the text's vector to length 1."""

    def forward(self, features: Features) -> Features:
        """Replace `sentence_embedding` by `x / max(|x|, 1e-12)`."""
        return {**features, "sentence_embedding": F.normalize(text_vectors(features), dim=-1)}


class LayerNorm(Module):
    """Layer normalisation of the text's vector, with learned scale and shift.

    Args:
        dimension: size of the vector.
    """

    config_keys = ("dimension",)

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:
        """Replace `sentence_embedding` by its normalised self."""
        return {**features, "sentence_embedding": self.norm(text_vectors(features))}

    def get_sentence_embedding_dimension(self) -> int:
        """Return the size of the vector."""
        return self.dimension


class Dropout(Module):
    """Dropout on the text's vector while training.

    Args:
        dropout: probability that an element is set to zero.
    """

    config_keys = ("dropout",)

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """Replace `sentence_embedding`, in training mode, by its thinned self."""
        return {**features, "sentence_embedding": self.dropout_layer(text_vectors(features))}


# -- Different ways for different texts --------------------------------------------------------------------------------


class Router(Module):
    """Different modules for different kinds of texts, e.g. a route for queries and one for documents.

    The route comes from `features["route"]`, which `encode(..., task="query")`, `encode_query`, `encode_document` and
    texts given as `{"query": text}` set.

    Args:
        sub_modules: modules by route, run in order; a route without modules passes its texts on unchanged.
        default_route: taken when a text names none.
        allow_empty_key: where there is no default either, take the first route, as the field does since version 5
            (version 2.2 passed such texts on unchanged); False makes naming a route obligatory.

    Raises:
        ValueError: no routes, a name that torch cannot take, or a default that is not one of them.
    """

    def __init__(
        self,
        sub_modules: Mapping[str, Sequence[Module]],
        default_route: str | None = None,
        allow_empty_key: bool = True,
    ) -> None:
        super().__init__()
        if not sub_modules:
            raise ValueError("sub_modules must name at least one route, e.g. {'query': [...], 'document': [...]}")
        if default_route is not None and default_route not in sub_modules:
            raise ValueError(f"default_route {default_route!r} is not one of the routes {list(sub_modules)}")
        try:
            self.sub_modules = nn.ModuleDict({route: nn.Sequential(*modules) for route, modules in sub_modules.items()})
        except KeyError as error:
            raise ValueError(f"a route has a name that torch cannot take ({error}); choose another") from error
        self.default_route, self.allow_empty_key = default_route, allow_empty_key

    @classmethod
    def for_query_document(cls, query_modules: Sequence[Module], document_modules: Sequence[Module]) -> Router:
        """Make a router with the two routes that `encode_query` and `encode_document` take."""
        routes = {"query": query_modules, "document": document_modules}
        return cls(routes, default_route="document", allow_empty_key=False)

    def route(self, name: str | None) -> nn.Sequential:
        """Return the modules of a route; of the default or first one when `name` is None.

        Raises:
            ValueError: the route is unknown, or none was named and none may be left out.
        """
        if name is None:
            name = self.default_route
        if name is None and self.allow_empty_key:
            name = next(iter(self.sub_modules))
        if name is None or name not in self.sub_modules:
            raise ValueError(
                f"route {name!r} is not one of {list(self.sub_modules)}; name one by encode(..., task=...), "
                "by encode_query / encode_document, or by texts such as {'query': text}"
            )
        return cast(nn.Sequential, self.sub_modules[name])

    def readers(self) -> list[TokenizerModule]:
        """Return the blocks that tokenise texts where the router comes first in an encoder, the default's first."""
        routes = sorted(self.sub_modules.items(), key=lambda item: item[0] != self.default_route)
        first = [next(iter(cast(nn.Sequential, modules)), None) for _, modules in routes]
        return [block for block in first if isinstance(block, TokenizerModule)]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the default, or first, route that has one."""
        return self.readers()[0].tokenizer

    @property
    def max_seq_length(self) -> int | None:
        """The largest length limit among the routes; setting it sets all."""
        limits = [block.max_seq_length for block in self.readers()]
        return max((limit for limit in limits if limit is not None), default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        for block in self.readers():
            block.max_seq_length = value

    def forward(self, features: Features) -> Features:
        """Run the modules of the route that the features name."""
        return self.route(features.get("route"))(features)

    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the size of the vectors, the same on every route; None where no block states one."""
        sizes = [output_dimension(list(cast(nn.Sequential, modules))) for modules in self.sub_modules.values()]
        return next((size for size in sizes if size is not None), None)


Asym = Router
"""The field's older name."""


def output_dimension(modules: Sequence[nn.Module]) -> int | None:
    """Return the size of the text's vector after these blocks: that of the last which states one."""
    for module in reversed(modules):
        state = getattr(module, "get_sentence_embedding_dimension", None)
        size = state() if callable(state) else None
        if size is not None:
            return int(size)
    return None
