"""Building blocks on the vector of a text: dense, normalised, thinned out."""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.models.module import Features, Module, text_vectors


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
