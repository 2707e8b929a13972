"""DenoisingAutoEncoderLoss (TSDAE): embeddings from which a decoder can rebuild the text."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sbertlab.losses.base import Columns, Loss, Texts, padded
from sbertlab.storage.find import find_model


class DenoisingAutoEncoderLoss(Loss):
    """TSDAE: a decoder must rebuild the text from the embedding of its damaged copy.

    `mean over tokens of -log p(token_t | tokens before t, embedding)`. The decoder has the encoder's architecture and,
    with `tie_encoder_decoder`, its weights and tokenizer; cross-attention and language-model head start from random
    values (torch's generator). BERT, RoBERTa, XLM-RoBERTa, ELECTRA, CamemBERT and the like can be decoders, DistilBERT,
    MPNet and T5 cannot. With `tie_encoder_decoder=False`, `decoder_name_or_path` is the decoder.

    Rows: (damaged text, text), no labels; DenoisingAutoEncoderDataset damages texts. `compute` takes the text's token
    ids `(batch, tokens)` as labels, made by `prepare`. Only the damaged text is embedded; cls pooling suits best.
    Relatives: ContrastiveTensionLossInBatchNegatives also learns from texts alone, faster.
    Source: Wang et al., 2021, TSDAE (arXiv:2104.06979), section 3.

    >>> from types import SimpleNamespace
    >>> from transformers import BertConfig, BertModel
    >>> model = nn.Module()
    >>> model.tokenizer = SimpleNamespace(pad_token_id=0)
    >>> model.auto_model = BertModel(BertConfig(vocab_size=10, hidden_size=12, num_hidden_layers=1))
    >>> loss = DenoisingAutoEncoderLoss(model)
    >>> _ = [nn.init.zeros_(parameter) for parameter in loss.parameters()]
    >>> round(loss.compute([torch.ones(1, 12)], torch.tensor([[2, 5, 3, 0]])).item(), 4)  # ten equal tokens: log 10
    2.3026
    """

    embedded, needs_texts = slice(0, 1), True

    def __init__(
        self, model: nn.Module, decoder_name_or_path: str | None = None, tie_encoder_decoder: bool = True
    ) -> None:
        super().__init__(model)
        encoder: Any = next((part.auto_model for part in model.modules() if hasattr(part, "auto_model")), None)
        if encoder is None:
            raise ValueError("DenoisingAutoEncoderLoss takes a model with a Transformer, to use as the decoder")
        self.tokenizer: Any = None  # the model's own
        if tie_encoder_decoder:
            self.decoder = _decoder(copy.deepcopy(encoder.config), AutoModelForCausalLM.from_config)
            parts = dict(self.decoder.base_model.named_modules())
            for name, parameter in encoder.named_parameters():
                owner, _, attribute = name.rpartition(".")
                if hasattr(parts.get(owner), attribute):
                    setattr(parts[owner], attribute, parameter)
            self.decoder.tie_weights()  # the head's output matrix is the word embeddings, now the encoder's
        else:
            folder = find_model(str(decoder_name_or_path))
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
            load = AutoModelForCausalLM.from_pretrained
            self.decoder = _decoder(AutoConfig.from_pretrained(folder), lambda config: load(folder, config=config))
        self.decoder.to(device=encoder.device, dtype=encoder.dtype)

    def prepare(self, columns: Texts, labels: Tensor | None) -> Tensor:
        """Return the token ids of the texts, `(batch, tokens)`, padded and truncated at the model's max_seq_length."""
        model: Any = self.model
        if self.tokenizer is None:
            return model.tokenize(list(columns[1]))["input_ids"]
        limit = model.max_seq_length
        encoded = self.tokenizer(
            list(columns[1]), padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt"
        )
        return encoded["input_ids"]

    def compute(self, embeddings: Columns, labels: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Return the loss of a batch; the decoder runs under the caller's autocast, the cross-entropy in float32."""
        self._check(embeddings, labels)
        if labels is None or labels.ndim != 2 or labels.is_floating_point():
            raise ValueError("DenoisingAutoEncoderLoss.compute takes token ids, which prepare(columns, None) makes")
        model: Any = self.model
        pad = (self.tokenizer or model.tokenizer).pad_token_id
        tokens = labels.to(embeddings[0].device)  # (batch, tokens)
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

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Return the loss of tokenised damaged and whole texts."""
        features, model = list(sentence_features), cast(Any, self.model)
        if self.tokenizer is not None:
            return super().forward(features, labels)
        embedding = model(dict(features[0]))["sentence_embedding"]
        return self.compute([embedding], features[1]["input_ids"])  # decoding would lose unknown tokens


def _decoder(config: Any, make: Callable[[Any], Any]) -> Any:
    """Return a causal language model with cross-attention."""
    config.is_decoder = config.add_cross_attention = True
    try:
        decoder = make(config)
    except ValueError:
        decoder = None  # transformers has no such model
    if decoder is None or not any("cross" in name or "encoder_attn" in name for name, _ in decoder.named_parameters()):
        raise ValueError(
            f"a {config.model_type} model cannot be the decoder: it has no cross-attention; use a BERT, RoBERTa, "
            "XLM-RoBERTa, ELECTRA or CamemBERT encoder, or name such a decoder with tie_encoder_decoder=False"
        )
    return decoder
