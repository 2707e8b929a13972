"""Losses: each is mathematics on the embeddings of a batch, `compute(embeddings, labels)`.

| a row of the data                       | start with                                                         |
| --------------------------------------- | ------------------------------------------------------------------ |
| (anchor, positive), negatives or not    | MultipleNegativesRankingLoss; with a guide model GISTEmbedLoss     |
| (a, b), similarity score                | CoSENTLoss, CosineSimilarityLoss                                   |
| (a, b), 0 or 1                          | OnlineContrastiveLoss                                              |
| (a, b), class of the pair               | SoftmaxLoss                                                        |
| text, its class                         | BatchHardSoftMarginTripletLoss                                     |
| texts, a teacher's scores or vectors    | MarginMSELoss, DistillKLDivLoss; MSELoss                           |
| text                                    | DenoisingAutoEncoderLoss, ContrastiveTensionLossInBatchNegatives   |
| any of these, short embeddings wanted   | MatryoshkaLoss around the loss                                     |
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sbertlab.checks import checked_number
from sbertlab.losses.base import Loss, fitting_losses, model_dimension, padded
from sbertlab.losses.distance import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchHardTripletLossDistanceFunction,
    BatchSemiHardTripletLoss,
    ContrastiveLoss,
    OnlineContrastiveLoss,
    SiameseDistanceMetric,
    TripletDistanceMetric,
    TripletLoss,
)
from sbertlab.losses.labels import (
    AnglELoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    DistillKLDivLoss,
    DistillKLLoss,
    MarginMSELoss,
    MSELoss,
    SoftmaxLoss,
)
from sbertlab.losses.ranking import (
    ContrastiveTensionLossInBatchNegatives,
    GISTEmbedLoss,
    MegaBatchMarginLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from sbertlab.storage.find import find_model

__all__ = [
    "AnglELoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchHardTripletLossDistanceFunction",
    "BatchSemiHardTripletLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "ContrastiveTensionLossInBatchNegatives",
    "CosineSimilarityLoss",
    "DenoisingAutoEncoderLoss",
    "DistillKLDivLoss",
    "DistillKLLoss",
    "GISTEmbedLoss",
    "Loss",
    "MSELoss",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MegaBatchMarginLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "OnlineContrastiveLoss",
    "SiameseDistanceMetric",
    "SoftmaxLoss",
    "TripletDistanceMetric",
    "TripletLoss",
    "fitting_losses",
]


class MatryoshkaLoss(Loss):
    """Any loss on the first dimensions of the embeddings, too: `sum_k weight_k * loss(normalised e[:dim_k])`.

    | texts              | labels                                                                      |
    | ------------------ | --------------------------------------------------------------------------- |
    | as the loss inside | as the loss inside; target vectors are cut as the embeddings, not rescaled  |

    Relatives: none; it goes around any other loss of this module, those with own weights (SoftmaxLoss,
    DenoisingAutoEncoderLoss) included: all dimensions share them. `encode(truncate_dim=...)` is what it trains for.
    Source: Kusupati et al., 2022, Matryoshka Representation Learning (arXiv:2205.13147), section 3.

    Args:
        loss: the loss inside.
        matryoshka_dims: numbers of leading dimensions. The model's own should be among them.
        matryoshka_weights: one for each; 1 if not given.
        n_dims_per_step: how many of the dimensions, drawn with torch's generator, a step uses; -1 uses all.

    >>> a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> loss = MatryoshkaLoss(None, CosineSimilarityLoss(), matryoshka_dims=[2, 1], matryoshka_weights=[1, 0.5])
    >>> round(loss.compute([a, b], torch.tensor([1.0, 0.0])).item(), 4)
    0.43

    In two dimensions the cosines are 1 and 0.6, in one both are 1: `0.6^2 / 2 + 0.5 * 1^2 / 2`.
    """

    columns = (0, 0)  # this and the like come from the loss inside

    def __init__(
        self,
        model: nn.Module | None,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        super().__init__(model)
        if not isinstance(loss, Loss):
            raise ValueError(f"loss must be a loss of sbertlab.losses, got {type(loss).__name__}")
        weights = [1.0] * len(matryoshka_dims) if matryoshka_weights is None else list(matryoshka_weights)
        if not matryoshka_dims or len(weights) != len(matryoshka_dims):
            raise ValueError(
                f"matryoshka_dims must hold at least one dimension and matryoshka_weights one weight for each, "
                f"got {list(matryoshka_dims)} and {weights}"
            )
        width = model_dimension(model)
        for dim, weight in zip(matryoshka_dims, weights, strict=True):
            checked_number("every one of matryoshka_dims", dim, 1, width or math.inf, whole=True)
            checked_number("every one of matryoshka_weights", weight)
        if width is not None and width not in matryoshka_dims:
            warnings.warn(f"add {width} to matryoshka_dims, or the whole embedding is not trained", stacklevel=2)
        if n_dims_per_step != -1:
            checked_number("n_dims_per_step, unless -1 for all,", n_dims_per_step, 1, whole=True)
        self.loss = loss
        self.n_dims_per_step = n_dims_per_step
        by_dim = sorted(zip(matryoshka_dims, weights, strict=True), reverse=True)
        self.matryoshka_dims, self.matryoshka_weights = (list(column) for column in zip(*by_dim, strict=True))
        for rule in ("columns", "label", "fewer_scores", "embedded", "views", "needs_texts", "in_batch"):
            setattr(self, rule, getattr(loss, rule))

    def prepare(self, columns: Sequence[Sequence[str]], labels: Tensor | None) -> Tensor | None:
        """Return what the loss inside makes of the texts."""
        return self.loss.prepare(columns, labels)

    def known_positives(
        self, columns: Sequence[Sequence[str]], groups: Sequence[Hashable] | None = None
    ) -> Tensor | None:
        """Return the mask of the loss inside."""
        return self.loss.known_positives(columns, groups)

    def check_batch(self, columns: Sequence[Sequence[str]], labels: Tensor | None) -> None:
        """Check the batch as the loss inside does."""
        self.loss.check_batch(columns, labels)

    def _formula(self, embeddings: Sequence[Tensor], labels: Tensor, known: Tensor | None = None) -> Tensor:
        width, count = embeddings[0].shape[1], len(self.matryoshka_dims)
        if self.matryoshka_dims[0] > width:
            raise ValueError(f"matryoshka_dims go up to {self.matryoshka_dims[0]}, but the embeddings have {width}")
        drawn = torch.randperm(count)[: self.n_dims_per_step].tolist() if self.n_dims_per_step > 0 else range(count)
        losses = []
        for index in drawn:
            dim, weight = self.matryoshka_dims[index], self.matryoshka_weights[index]
            cut = [F.normalize(column[:, :dim], dim=-1) for column in embeddings]
            targets = labels[..., :dim] if self.label == "vector" and labels.shape[-1] == width else labels
            losses.append(weight * self.loss.compute(cut, targets, known))
        return torch.stack(losses).sum()


class DenoisingAutoEncoderLoss(Loss):
    """TSDAE: a decoder that sees nothing but the embedding of a damaged text must write the whole text.

    `mean over tokens of -log p(token_t | tokens before t, embedding)`. The decoder has the encoder's architecture and
    weights, plus cross-attention and a language-model head that start from random weights (torch's generator).

    | texts                | labels                                                                             |
    | -------------------- | ---------------------------------------------------------------------------------- |
    | (damaged text, text) | none; `prepare` makes the text's token ids `(batch, tokens)`, which `compute` takes |

    Relatives: ContrastiveTensionLossInBatchNegatives also learns from texts alone, faster. Only the damaged text is
    embedded. DenoisingAutoEncoderDataset damages texts; cls pooling suits this loss best.
    Source: Wang et al., 2021, TSDAE (arXiv:2104.06979), section 3.

    Args:
        model: a SentenceTransformer whose Transformer can be a decoder: BERT, RoBERTa, XLM-RoBERTa, ELECTRA, CamemBERT
            and the like, not DistilBERT, MPNet or T5.
        decoder_name_or_path: another decoder, with tie_encoder_decoder=False only; as in the field it is not looked at
            otherwise.
        tie_encoder_decoder: the decoder shares the encoder's parameters and tokenizer.

    Raises:
        ValueError: the model has no Transformer, or one that cannot be a decoder; no decoder to use; or one of another
            hidden size.

    >>> from types import SimpleNamespace
    >>> from transformers import BertConfig, BertModel
    >>> model = nn.Module()
    >>> model.tokenizer = SimpleNamespace(pad_token_id=0)
    >>> model.auto_model = BertModel(BertConfig(vocab_size=10, hidden_size=12, num_hidden_layers=1))
    >>> loss = DenoisingAutoEncoderLoss(model)
    >>> _ = [nn.init.zeros_(parameter) for parameter in loss.parameters()]
    >>> round(loss.compute([torch.ones(1, 12)], torch.tensor([[2, 5, 3, 0]])).item(), 4)  # all ten tokens alike: log 10
    2.3026
    """

    embedded = slice(0, 1)
    needs_texts = True

    def __init__(
        self, model: nn.Module, decoder_name_or_path: str | None = None, tie_encoder_decoder: bool = True
    ) -> None:
        super().__init__(model)
        encoder: Any = next((part.auto_model for part in model.modules() if hasattr(part, "auto_model")), None)
        if encoder is None:
            raise ValueError(
                "DenoisingAutoEncoderLoss takes a model with a Transformer, whose architecture it decodes by"
            )
        self.tokenizer: Any = None  # the model's own
        if tie_encoder_decoder:
            self.decoder = _decoder(copy.deepcopy(encoder.config))
            _share_parameters(encoder, self.decoder)
        elif decoder_name_or_path is None:
            raise ValueError("with tie_encoder_decoder=False, decoder_name_or_path must name a decoder, got None")
        else:
            folder = find_model(decoder_name_or_path)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
            self.decoder = _decoder(AutoConfig.from_pretrained(folder), folder)
        self.decoder.to(device=encoder.device, dtype=encoder.dtype)
        if (model_dimension(model) or 0) > self.decoder.config.hidden_size:
            raise ValueError(
                f"the decoder takes embeddings of up to {self.decoder.config.hidden_size} dimensions, the model's have "
                f"{model_dimension(model)}; pool in one way only, or add a Dense layer"
            )

    def prepare(self, columns: Sequence[Sequence[str]], labels: Tensor | None) -> Tensor:
        """Return the token ids of the whole texts, `(batch, tokens)`, padded and cut at the model's max_seq_length."""
        model: Any = self.model
        if self.tokenizer is None:
            return model.tokenize(list(columns[1]))["input_ids"]
        limit = model.max_seq_length
        encoded = self.tokenizer(
            list(columns[1]), padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt"
        )
        return encoded["input_ids"]

    def compute(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch; the decoder runs under the caller's autocast, the cross-entropy in float32.

        Args:
            embeddings: those of the damaged texts, one `(batch, dim)` tensor.
            labels: token ids of the whole texts, `(batch, tokens)`, at least 2 tokens.
            known: ignored; there are no negatives.

        Raises:
            ValueError: the embeddings do not fit the decoder, or the labels are no token ids.
        """
        self._check(embeddings, labels)
        tokens = torch.zeros(0) if labels is None else labels.to(embeddings[0].device)
        if tokens.ndim != 2 or tokens.is_floating_point() or len(tokens) != len(embeddings[0]) or tokens.shape[1] < 2:
            raise ValueError(
                "DenoisingAutoEncoderLoss.compute takes token ids (batch, tokens) as labels, got shape "
                f"{tuple(tokens.shape)} of {tokens.dtype}; prepare(columns, None) makes them"
            )
        model: Any = self.model
        pad = (self.tokenizer or model.tokenizer).pad_token_id
        seen, wanted = tokens[:, :-1], tokens[:, 1:]
        embedding = padded(embeddings[0], self.decoder.config.hidden_size).to(self.decoder.dtype)
        logits = self.decoder(
            input_ids=seen,
            attention_mask=seen.ne(pad).long(),
            encoder_hidden_states=embedding.unsqueeze(1),  # (batch, 1, dim): a text of one token
            use_cache=False,
        ).logits  # (batch, tokens - 1, vocabulary)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=pad)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Any:
        """Return the loss of tokenised damaged and whole texts."""
        features = list(sentence_features)
        if self.tokenizer is not None:
            return super().forward(features, labels)
        return self.compute(self.embed(features), features[1]["input_ids"])  # decoding would lose unknown tokens


def _decoder(config: Any, folder: Path | None = None) -> Any:
    """Return a causal language model with cross-attention, with the weights in `folder` or random ones."""
    config.is_decoder = config.add_cross_attention = True
    try:
        source = AutoModelForCausalLM
        decoder: Any = source.from_config(config) if folder is None else source.from_pretrained(folder, config=config)
    except ValueError:
        decoder = None  # transformers has no such model
    if decoder is None or not any("cross" in name or "encoder_attn" in name for name, _ in decoder.named_parameters()):
        raise ValueError(
            f"a {config.model_type} model cannot be the decoder of DenoisingAutoEncoderLoss: it has no cross-"
            "attention; use a BERT, RoBERTa, XLM-RoBERTa, ELECTRA or CamemBERT encoder, or name such a decoder with "
            "tie_encoder_decoder=False"
        )
    return decoder


def _share_parameters(encoder: nn.Module, decoder: Any) -> None:
    """Make the decoder use the encoder's own parameters wherever both have one of the same name."""
    parts = dict(decoder.base_model.named_modules())
    for name, parameter in encoder.named_parameters():
        owner, _, attribute = name.rpartition(".")
        if hasattr(parts.get(owner), attribute):
            setattr(parts[owner], attribute, parameter)
    decoder.tie_weights()  # the head's output matrix is the word embeddings, now the encoder's
