"""Building blocks between token vectors: mixing layers, an LSTM, convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sbertlab.models.module import Features, Module


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
