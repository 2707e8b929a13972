"""From one vector per token to one vector per text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sbertlab.models.module import Features, Module, masked_mean, masked_sum

FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""The field's flag of each mode, in the order in which several flags are concatenated."""
POOLING_MODES = tuple(FLAGS)


class Pooling(Module):
    """From one vector per token to one vector per text, without the padding; several modes are concatenated.

    | mode                   | vector of the text                                    |
    | ---------------------- | ----------------------------------------------------- |
    | `cls`                  | the first token's                                     |
    | `max`                  | the maximum over the tokens, by dimension             |
    | `mean`                 | the mean over the tokens                              |
    | `mean_sqrt_len_tokens` | the sum over the tokens / sqrt(number of tokens)      |
    | `weightedmean`         | the mean with weights 1, 2, 3, ... by position (SGPT) |
    | `lasttoken`            | the last token's                                      |

    A text without tokens becomes zeros in every mode. `pooling_mode` is one name, or several in the order of
    concatenation; default "mean", or what the field's flags say. Without `include_prompt` the tokens of a prompt are
    not pooled, though `weightedmean` still counts their positions.

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
        given = locals()
        names = [mode for mode, flag in FLAGS.items() if given[flag]]
        if not names and pooling_mode_mean_tokens is None:
            names = ["mean"]
        if pooling_mode is not None:
            names = [pooling_mode] if isinstance(pooling_mode, str) else list(pooling_mode)
        names = ["mean_sqrt_len_tokens" if name == "mean_sqrt_len" else name for name in names]
        if not names or not set(names) <= set(POOLING_MODES) or len(set(names)) < len(names):
            raise ValueError(f"pooling_mode must name some of {', '.join(POOLING_MODES)}, each once, got {names}")
        self.word_embedding_dimension, self.include_prompt = word_embedding_dimension, include_prompt
        self.modes = tuple(names)

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

    def config(self) -> dict[str, Any]:
        """Return the keys of sentence-transformers 2.2, and later ones only if they are not at their default."""
        settings: dict[str, Any] = {"word_embedding_dimension": self.word_embedding_dimension}
        for mode in ("cls", "mean", "max", "mean_sqrt_len_tokens"):
            settings[FLAGS[mode]] = mode in self.modes
        settings |= {FLAGS[mode]: True for mode in ("weightedmean", "lasttoken") if mode in self.modes}
        if not self.include_prompt:
            settings["include_prompt"] = False
        if list(self.modes) != sorted(self.modes, key=POOLING_MODES.index):
            settings["pooling_mode"] = list(self.modes)  # flags have no order
        return settings

    def extra_repr(self) -> str:
        """Return the arguments for printing."""
        return f"{self.word_embedding_dimension}, {'+'.join(self.modes)!r}"
