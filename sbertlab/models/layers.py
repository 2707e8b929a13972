"""Building blocks between others: on the token vectors, and on the vector of a text."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.models.module import Features, Module, text_vectors


class WeightedLayerPooling(Module):
    """A learned mix of the transformer's layers: `token_embeddings = sum_l w_l * layer_l / sum_l w_l`.

    It needs `Transformer(..., model_args={"output_hidden_states": True})`. The mix begins at `layer_start` (0 is the
    embedding layer), with `layer_weights` `(num_hidden_layers + 1 - layer_start,)` or ones.
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
        weights = torch.ones(num_hidden_layers + 1 - layer_start) if layer_weights is None else layer_weights
        self.word_embedding_dimension = word_embedding_dimension
        self.num_hidden_layers, self.layer_start = num_hidden_layers, layer_start
        self.layer_weights = nn.Parameter(weights.detach().clone())

    def forward(self, features: Features) -> Features:
        """Replace `token_embeddings` `(batch, tokens, dim)` by the weighted mean over the layers."""
        layers = torch.stack(features["all_layer_embeddings"][self.layer_start :])  # (layers, batch, tokens, dim)
        weights = self.layer_weights.view(-1, 1, 1, 1)
        return {**features, "token_embeddings": (weights * layers).sum(dim=0) / self.layer_weights.sum()}

    def get_word_embedding_dimension(self) -> int:
        """Return the size of a token vector."""
        return self.word_embedding_dimension


class LSTM(Module):
    """A (bidirectional) LSTM over the token vectors, `hidden_dim` per direction; padding is never read."""

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
        settings = {"dropout": dropout, "bidirectional": bidirectional}
        self.encoder = nn.LSTM(word_embedding_dimension, hidden_dim, num_layers, batch_first=True, **settings)

    def forward(self, features: Features) -> Features:
        """Replace `token_embeddings` by `(batch, tokens, hidden_dim * directions)`."""
        vectors, mask = features["token_embeddings"], features["attention_mask"]
        if (mask[:, 1:] > mask[:, :-1]).any():
            raise ValueError('LSTM needs the padding after the texts: set model.tokenizer.padding_side = "right"')
        lengths = mask.sum(dim=1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        states, _ = self.encoder(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=vectors.shape[1])
        return {**features, "token_embeddings": states}

    def get_word_embedding_dimension(self) -> int:
        """Return the size of the output's token vectors."""
        return self.hidden_dim * (2 if self.bidirectional else 1)


class CNN(Module):
    """Convolutions of several widths over the token vectors, concatenated, `out_channels` per width.

    `kernel_sizes` are odd, so that a token stays in the middle, and `stride_sizes` 1, so that no token is lost.
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
        if any(size % 2 == 0 for size in kernel_sizes) or set(stride_sizes or [1]) != {1}:
            raise ValueError(f"kernel_sizes must be odd and stride_sizes 1, got {kernel_sizes} and {stride_sizes}")
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
        """Return the size of the output's token vectors."""
        return self.out_channels * len(self.kernel_sizes)


def activation_from_name(name: str) -> nn.Module:
    """Make an activation of torch.nn from its dotted name, which may come from a file: nothing is imported."""
    found = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"activation_function {name!r} is not a module of torch.nn in torch {torch.__version__}")
    return found()


class Dense(Module):
    """A fully connected layer on the text's vector: `activation(x @ weight.T + bias)`.

    The activation is a module or its dotted name; None is the identity. `init_weight` `(out_features, in_features)` and
    `init_bias` `(out_features,)` are copied.
    """

    config_keys = ("in_features", "out_features")

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
        given = {"weight": init_weight, "bias": init_bias}
        self.linear.load_state_dict({key: value for key, value in given.items() if value is not None}, strict=False)

    def forward(self, features: Features) -> Features:
        """Replace `sentence_embedding` `(batch, in_features)` by `(batch, out_features)`."""
        return {**features, "sentence_embedding": self.activation_function(self.linear(text_vectors(features)))}

    def get_sentence_embedding_dimension(self) -> int:
        """Return the size of the output."""
        return self.out_features

    def config(self) -> dict[str, Any]:
        """Return the field's four keys; of the activation, only its name is saved."""
        activation = type(self.activation_function)
        name = f"{activation.__module__}.{activation.__qualname__}"
        return {**super().config(), "bias": self.linear.bias is not None, "activation_function": name}


class Normalize(Module):
    """Scale the text's vector to length 1: `x / max(|x|, 1e-12)`."""

    def forward(self, features: Features) -> Features:
        """Normalise `sentence_embedding`."""
        return {**features, "sentence_embedding": F.normalize(text_vectors(features), dim=-1)}


class LayerNorm(Module):
    """Layer normalisation of the text's vector of size `dimension`, with learned scale and shift."""

    config_keys = ("dimension",)

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:
        """Normalise `sentence_embedding`."""
        return {**features, "sentence_embedding": self.norm(text_vectors(features))}

    def get_sentence_embedding_dimension(self) -> int:
        """Return the size of the vector."""
        return self.dimension


class Dropout(Module):
    """Dropout on the text's vector in training mode, with probability `dropout`."""

    config_keys = ("dropout",)

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """Drop elements of `sentence_embedding`."""
        return {**features, "sentence_embedding": self.dropout_layer(text_vectors(features))}
