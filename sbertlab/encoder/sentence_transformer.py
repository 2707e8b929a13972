"""`SentenceTransformer`: building blocks in a row, and what people do with them.

The forward pass belongs to the batch: all texts are tokenised together, sorted by their real token count and run in
chunks of a fixed token budget (`batching`). `encode` and training use the very same chunks.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sbertlab.data.texts import Text, TruncationWarning, as_texts, by_route, distinct_texts, warn_of_truncation
from sbertlab.encoder.batching import PaddingMeter, default_token_budget, original_order, token_budget_chunks
from sbertlab.encoder.load import SIZE_KEYS, load_modules, save_modules
from sbertlab.encoder.model_card import model_card
from sbertlab.models import (
    Features,
    Module,
    Router,
    TokenizerModule,
    features_to,
    output_dimension,
    text_vectors,
)
from sbertlab.storage.find import find_model
from sbertlab.util import SimilarityFunction, quantize_embeddings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

WINDOW = 65_536
"""Texts that `encode` tokenises and sorts at a time, so that memory stays bounded on large corpora."""


class Chunk(NamedTuple):
    """Some texts that share a forward pass."""

    positions: list[int]
    """Where they are among all texts."""
    features: Features
    """Padded, on the CPU."""
    lengths: list[int]
    """Tokens of each that are read."""
    cut: list[int]
    """Tokens of each that are not."""


class SentenceTransformer(nn.Sequential):
    """An encoder of texts: a model by name or folder, or building blocks in a row.

    Args:
        model_name_or_path: a folder, a name on the Hub, one of the packaged models, or the URL of a zip.
        modules: building blocks, run in order, instead of a name.
        device: "cuda", "mps", "cpu"; the best one there is when None.
        cache_folder: where downloads are kept.
        use_auth_token: the field's older name of `token`.
        token: access token of the Hub.
        prompts: texts put in front, by name, e.g. `{"query": "query: "}`.
        default_prompt_name: the prompt that `encode` takes when none is named.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; used by `similarity`.
        truncate_dim: keep only so many dimensions (Matryoshka models).
        revision: branch, tag or commit on the Hub.
        local_files_only: never ask the network.
        trust_remote_code: run code that comes with the model. Off: weights and known building blocks only.
        model_kwargs: passed to transformers' model, e.g. `{"dtype": torch.bfloat16}`.
        tokenizer_kwargs: passed to transformers' tokenizer.

    Raises:
        FileNotFoundError: the model cannot be found; the message says what was tried and what would help.
        TypeError: a name that is neither text nor path, or building blocks that are none.
        ValueError: neither or both of name and modules; blocks that do not fit each other; an unknown similarity or
            prompt.
    """

    fit: Callable[..., pd.DataFrame]  # training.fit, one floor above, bound to the class by sbertlab/__init__.py

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        modules: Sequence[nn.Module] | None = None,
        device: str | torch.device | None = None,
        cache_folder: str | None = None,
        use_auth_token: str | bool | None = None,
        *,
        token: str | bool | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if (model_name_or_path is None) == (modules is None):
            raise ValueError("give either model_name_or_path or modules=[...], not both or neither")
        settings: dict[str, Any] = {}
        blocks: OrderedDict[str, nn.Module]
        if modules is None:
            if not isinstance(model_name_or_path, (str, Path)):
                raise TypeError(
                    f"model_name_or_path must be a name or a folder, got {type(model_name_or_path).__name__}; "
                    "building blocks go to modules=[...]"
                )
            folder = find_model(
                str(model_name_or_path),
                revision=revision,
                cache_folder=cache_folder,
                token=use_auth_token if token is None else token,
                local_files_only=local_files_only,
            )
            blocks, settings = load_modules(
                folder, model_args=model_kwargs, tokenizer_args=tokenizer_kwargs, trust_remote_code=trust_remote_code
            )
        else:
            if not hasattr(modules, "__iter__"):
                raise TypeError(f"modules must be a list of building blocks, got {type(modules).__name__}")
            blocks = OrderedDict((str(index), module) for index, module in enumerate(modules))
            check_modules(list(blocks.values()))
        super().__init__(blocks)
        self.prompts: dict[str, str] = dict(settings.get("prompts") or {}) | dict(prompts or {})
        for name, text in self.prompts.items():
            if not isinstance(text, str):
                raise TypeError(f"prompts[{name!r}] must be a text, got {type(text).__name__}")
        self.default_prompt_name: str | None = default_prompt_name or settings.get("default_prompt_name")
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise ValueError(f"default_prompt_name {self.default_prompt_name!r} is not one of {list(self.prompts)}")
        self.similarity_fn_name = similarity_fn_name or settings.get("similarity_fn_name") or "cosine"
        self.truncate_dim = check_truncate_dim(settings.get("truncate_dim") if truncate_dim is None else truncate_dim)
        self.model_name = str(model_name_or_path) if model_name_or_path is not None else None
        first = next(self[0].parameters(), None)
        if first is not None and first.is_floating_point():
            for block in list(self)[1:]:
                block.to(first.dtype)  # behind a bfloat16 encoder all is bfloat16
        self.to(torch.device(device) if device is not None else best_device())
        self.eval()

    # -- Encoding ------------------------------------------------------------------------------------------------------

    def forward(self, features: Features) -> Features:
        """Run the blocks: from `input_ids` `(batch, tokens)` and their mask to `sentence_embedding` `(batch, dim)`."""
        for block in self:
            features = block(features)
        return features

    def chunks(
        self,
        texts: Sequence[Text],
        token_budget: int | None = None,
        task: str | None = None,
        prompt: str = "",
        fewest: int = 1,
    ) -> Iterator[Chunk]:
        """Tokenise the texts together and yield them in token-budget chunks, longest first.

        Args:
            texts: strings, or `{route: text}` for a model with routes.
            token_budget: padded tokens a chunk; chosen by the device when None.
            task: the route of texts that name none.
            prompt: what the texts begin with, for a Pooling that leaves it out.
            fewest: chunks are made smaller to be at least about so many.
        """
        budget = default_token_budget(self.device) if token_budget is None else token_budget
        for route, positions, plain in by_route(texts, task):
            block = self._text_block(route)
            tokens = block.token_ids(plain)
            lengths = tokens.lengths
            constant: Features = {} if route is None else {"route": route}
            if prompt and not all(getattr(part, "include_prompt", True) for part in self.modules()):
                constant["prompt_length"] = prompt_length(block, prompt)
            if fewest > 1:
                budget = min(budget, max(1, sum(lengths) // fewest))
            for chunk in token_budget_chunks(lengths, budget):
                yield Chunk(
                    [positions[index] for index in chunk],
                    {**block.pad([tokens.ids[index] for index in chunk]), **constant},
                    [lengths[index] for index in chunk],
                    [tokens.cut[index] for index in chunk],
                )

    def embed(
        self,
        texts: Sequence[Text],
        token_budget: int | None = None,
        task: str | None = None,
        meter: PaddingMeter | None = None,
    ) -> Tensor:
        """Return the embeddings of the texts with their graph, `(texts, dim)`, for training.

        All texts go through the encoder together, in token-budget chunks, and come back in order.

        Args:
            texts: strings, or `{route: text}` for a model with routes.
            token_budget: padded tokens a chunk; chosen by the device when None.
            task: the route of texts that name none.
            meter: counts the tokens and the padding.
        """
        chunks = self.training_chunks(texts, token_budget, task, meter)
        if not chunks:
            return torch.empty(0, output_dimension(list(self)) or 0, device=self.device)
        order = original_order(chunk.positions for chunk in chunks)
        return torch.cat([self.forward_chunk(chunk) for chunk in chunks])[order.to(self.device)]

    def training_chunks(
        self,
        texts: Sequence[Text],
        token_budget: int | None = None,
        task: str | None = None,
        meter: PaddingMeter | None = None,
        fewest: int = 1,
    ) -> list[Chunk]:
        """Return the chunks of a batch to train on; the arguments are those of `chunks` and `embed`."""
        chunks = list(self.chunks(as_texts(texts)[0], token_budget, task, fewest=fewest))
        if meter is not None:
            for chunk in chunks:
                meter.add(chunk.lengths)
        if any(any(chunk.cut) for chunk in chunks):  # without counts: Python shows the same words only once
            warnings.warn(
                f"some texts are longer than max_seq_length={self.max_seq_length} and are not read to their end",
                TruncationWarning,
                stacklevel=3,
            )
        return chunks

    def forward_chunk(self, chunk: Chunk) -> Tensor:
        """Return the embeddings of a chunk, `(texts, dim)`, in its order."""
        return text_vectors(self(features_to(chunk.features, self.device)))

    @torch.no_grad()
    def encode(
        self,
        sentences: str | Mapping[str, str] | Sequence[Text] | np.ndarray | pd.Series,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        precision: str = "float32",
        task: str | None = None,
        task_metadata: Any = None,
        hf_split: str | None = None,
        hf_subset: str | None = None,
        prompt_type: Any = None,
    ) -> Any:
        """Return the embeddings of the texts, in their order; equal texts are computed once.

        Args:
            sentences: one text, or a list, tuple, pandas Series or one-dimensional array of texts.
            batch_size: how much goes through the encoder at a time: texts of 32 tokens on a CPU, 1,024 on an
                accelerator. A matter of memory and speed alone; results do not depend on it.
            show_progress_bar: None shows it where the logger's level is INFO or finer, as in the field.
            output_value: "sentence_embedding"; "token_embeddings" for one `(tokens, dim)` tensor a text, without
                padding; None for one dictionary of all features a text. Equal texts share the latter two.
            convert_to_numpy: an array; otherwise a list of tensors.
            convert_to_tensor: one tensor on the device; wins over `convert_to_numpy`.
            device: moves the model there first.
            normalize_embeddings: scale each to length 1, after truncation.
            prompt: text put in front of each.
            prompt_name: the same by name, from `prompts`.
            truncate_dim: keep only so many dimensions.
            precision: "float32", or "int8", "uint8", "binary", "ubinary" for quantised embeddings.
            task: the route, for models with routes.
            task_metadata: given by `mteb.evaluate` when it calls; `sentences` are then its batches of texts, and the
                prompt follows from the task as mteb has it.
            hf_split: likewise; of no concern here.
            hf_subset: likewise.
            prompt_type: likewise, "query" or "document" where the two differ.

        Returns:
            `(texts, dim)`, or `(dim,)` for one text; an empty input gives `(0, dim)`.

        Raises:
            TypeError: something that is not a text, with its position.
            ValueError: an unknown `prompt_name`, `output_value`, `precision` or route.

        Warns:
            TruncationWarning: once, with the number of texts longer than `max_seq_length` and of tokens that were not
                read; a text that occurs twice counts twice.
        """
        if task_metadata is not None:
            from mteb.models.abs_encoder import get_prompt_name

            as_role = {"query": self.encode_query, "document": self.encode_document}.get(prompt_type, self.encode)
            return as_role(
                [text for batch in cast(Any, sentences) for text in batch["text"]],
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                device=device,
                normalize_embeddings=normalize_embeddings,
                prompt_name=get_prompt_name(self.prompts, task_metadata, prompt_type),
                truncate_dim=truncate_dim,
                precision=precision,
            )
        if output_value not in ("sentence_embedding", "token_embeddings", None):
            raise ValueError(
                f'output_value must be "sentence_embedding", "token_embeddings" or None, got {output_value!r}'
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
        if precision not in ("float32", "int8", "uint8", "binary", "ubinary"):
            raise ValueError(f"precision must be one of float32, int8, uint8, binary, ubinary, got {precision!r}")
        dim = self.truncate_dim if truncate_dim is None else check_truncate_dim(truncate_dim)
        texts, single = as_texts(sentences)
        prompt = self._prompt(prompt, prompt_name)
        if device is not None:
            self.to(device)
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        budget = max(1, int(batch_size) * default_token_budget(self.device) // 32)
        distinct, rows = distinct_texts(texts, prompt)
        to_cpu = convert_to_numpy and not convert_to_tensor
        with evaluating(self):
            found, order, cut, read = self._run(
                distinct, budget, task, prompt, output_value, to_cpu, bool(show_progress_bar)
            )
        warn_of_truncation(cut[rows], read[rows], self.max_seq_length)
        index = order[rows]
        if not isinstance(found, Tensor):
            results = [found[row] for row in index]
            return results[0] if single else results
        embeddings = found[:, :dim][index]
        if normalize_embeddings:
            embeddings = nn.functional.normalize(embeddings, dim=-1)
        if precision != "float32":
            quantised = quantize_embeddings(embeddings.float().cpu().numpy(), precision)
            embeddings = torch.from_numpy(quantised)
        if convert_to_tensor:
            return embeddings[0] if single else embeddings
        if convert_to_numpy:
            array = (embeddings.float() if embeddings.dtype == torch.bfloat16 else embeddings).cpu().numpy()
            return array[0] if single else array
        return embeddings[0] if single else list(embeddings)

    def encode_query(self, sentences: Any, **arguments: Any) -> Any:
        """`encode` with the prompt and the route named "query", where the model has them."""
        return self._encode_as(("query",), sentences, arguments)

    def encode_document(self, sentences: Any, **arguments: Any) -> Any:
        """`encode` with the prompt and the route named "document", "passage" or "corpus", where the model has them."""
        return self._encode_as(("document", "passage", "corpus"), sentences, arguments)

    def _encode_as(self, names: Sequence[str], sentences: Any, arguments: dict[str, Any]) -> Any:
        if arguments.get("prompt") is None and arguments.get("prompt_name") is None:
            arguments["prompt_name"] = next((name for name in names if name in self.prompts), None)
        routes = {route for block in self.modules() if isinstance(block, Router) for route in block.sub_modules}
        arguments.setdefault("task", next((name for name in names if name in routes), None))
        return self.encode(sentences, **arguments)

    def _run(
        self,
        texts: list[Text],
        budget: int,
        task: str | None,
        prompt: str,
        output_value: str | None,
        to_cpu: bool,
        progress: bool,
    ) -> tuple[Tensor | list[Any], np.ndarray, np.ndarray, np.ndarray]:
        """Forward all texts, window by window.

        Returns:
            The results in the order of the chunks, the place of every text among them, and for every text the tokens
            that were cut and those that were read.
        """
        cut, read = np.zeros((2, len(texts)), dtype=np.int64)
        positions: list[list[int]] = []
        parts: list[Any] = []
        with tqdm(total=len(texts), desc="Encoding", unit="text", disable=not progress) as bar:
            for start in range(0, len(texts), WINDOW):
                first = len(parts)
                for chunk in self.chunks(texts[start : start + WINDOW], budget, task, prompt):
                    output = self(features_to(chunk.features, self.device))
                    parts.append(split_output(output, output_value))
                    positions.append([start + position for position in chunk.positions])
                    cut[positions[-1]], read[positions[-1]] = chunk.cut, chunk.lengths
                    bar.update(len(chunk.positions))
                if to_cpu and output_value == "sentence_embedding":  # an accelerator's memory holds one window
                    parts[first:] = [torch.cat(parts[first:]).cpu()]
        order = original_order(positions).numpy()
        if output_value != "sentence_embedding":
            return list(chain.from_iterable(parts)), order, cut, read
        empty = torch.empty(0, output_dimension(list(self)) or 0)
        return (torch.cat(parts) if parts else empty), order, cut, read

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise TypeError(f"prompt must be a text, got {type(prompt).__name__}")
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"prompt_name {name!r} is not one of this model's prompts {list(self.prompts)}")
        return self.prompts[name]

    def _text_block(self, route: str | None) -> TokenizerModule:
        """Return the block that turns texts into tokens, on the route of the texts."""
        block = self[0]
        if isinstance(block, Router):
            block = next(iter(block.route(route)), block)
        if not isinstance(block, TokenizerModule):
            raise TypeError(
                f"the first module is {type(block).__name__}, which reads no text; "
                "begin with Transformer or StaticEmbedding"
            )
        return block

    # -- Comparing -----------------------------------------------------------------------------------------------------

    @property
    def similarity_fn_name(self) -> str:
        """Name of the similarity that `similarity` computes."""
        return self._similarity.value

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        self._similarity = SimilarityFunction(name)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the similarity of every row of one with every row of the other, `(n, m)`."""
        return SimilarityFunction.to_similarity_fn(self._similarity)(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the similarity of row i of one with row i of the other, `(n,)`."""
        return SimilarityFunction.to_similarity_pairwise_fn(self._similarity)(embeddings1, embeddings2)

    def evaluate(self, evaluator: Any, output_path: str | Path | None = None) -> dict[str, float]:
        """Run an evaluator on this model and return its metrics."""
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path=output_path)

    @property
    def mteb_model_meta(self) -> Any:
        """What `mteb.evaluate` files its scores under: the model's name, and its fingerprint as the revision.

        So mteb's cache never gives a tuned model the scores of the untuned one.
        """
        from mteb.models.model_meta import ModelMeta

        from sbertlab.encoder.fingerprint import fingerprint

        return ModelMeta.create_empty(
            {
                "name": f"sbertlab/{Path(self.model_name or 'unnamed').name}",
                "revision": fingerprint(self)[:16],
                "max_tokens": self.max_seq_length,
                "embed_dim": self.get_sentence_embedding_dimension(),
            }
        )

    # -- Parts ---------------------------------------------------------------------------------------------------------

    def tokenize(self, texts: Sequence[Text]) -> Features:
        """Return the padded features of the texts, `(batch, tokens)` each, ready for `forward`.

        Raises:
            ValueError: texts of several routes, which cannot share a forward pass.
        """
        groups = list(by_route(as_texts(texts)[0], None)) or [(None, [], [])]
        if len(groups) > 1:
            raise ValueError(f"texts of the routes {[route for route, *_ in groups]} cannot share a batch; split them")
        route, _, plain = groups[0]
        features = self._text_block(route).tokenize(plain)
        return features if route is None else {**features, "route": route}

    def smart_batching_collate(self, examples: Sequence[Any]) -> tuple[list[Features], Tensor | None]:
        """Collate InputExamples for a hand-written loop: one features dictionary a column, and the labels."""
        from sbertlab.data import collate

        columns, labels = collate(examples)
        return [self.tokenize(column) for column in columns], labels

    @property
    def tokenizer(self) -> Any:
        """The first module's tokenizer."""
        return self[0].tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self[0].tokenizer = tokenizer

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of a text that are read, special tokens included; None: no limit."""
        return getattr(self[0], "max_seq_length", None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        cast(TokenizerModule, self[0]).max_seq_length = value

    def get_max_seq_length(self) -> int | None:
        """The field's other name for `max_seq_length`."""
        return self.max_seq_length

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a model without any."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the size of an embedding, after `truncate_dim`; None where no block states one."""
        size = output_dimension(list(self))
        return size if size is None or self.truncate_dim is None else min(size, self.truncate_dim)

    get_embedding_dimension = get_sentence_embedding_dimension

    def _first_module(self) -> nn.Module:
        return self[0]

    def _last_module(self) -> nn.Module:
        return self[-1]

    # -- Keeping -------------------------------------------------------------------------------------------------------

    def save(
        self,
        path: str | Path,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: Sequence[str] | None = None,
        *,
        format: str = "portable",
    ) -> None:
        """Write the model folder, atomically; sentence-transformers reads it with the same embeddings.

        Args:
            path: folder to write; files of an earlier model in it are replaced.
            model_name: title of the model card.
            create_model_card: write README.md.
            train_datasets: names of data sets, for the card.
            format: "portable" for versions 2.2 to 6.2 of sentence-transformers, "st6" for the layout of 6.2.
        """
        settings = {
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
            "truncate_dim": self.truncate_dim,
        }
        for block in self.modules():
            if isinstance(block, TokenizerModule):
                block.match_vocabulary()
        card = model_card(self, model_name, train_datasets or []) if create_model_card else None
        save_modules(OrderedDict(self._modules), Path(path), settings, format=format, model_card=card)

    save_pretrained = save

    def push_to_hub(
        self, repo_id: str, token: str | None = None, private: bool | None = None, commit_message: str = "Add model"
    ) -> str:
        """Write the model to a repository on the Hub, made when missing; return its address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "model", model_name=repo_id)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=Path(folder) / "model", commit_message=commit_message
            )
            return str(commit)


# -- Texts in, results out: small pure functions -----------------------------------------------------------------------


def best_device() -> torch.device:
    """Return the accelerator that torch sees, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found if found is not None else torch.device("cpu")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all in it into evaluation mode; each goes back to the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def prompt_length(block: TokenizerModule, prompt: str) -> int:
    """Count the tokens that a prompt puts at the start of a text, special tokens before it included."""
    ids = block.token_ids([prompt]).ids[0]
    return len(ids) - (ids[-1:] != [] and ids[-1] in block.tokenizer.all_special_ids)


def split_output(output: Features, output_value: str | None) -> Tensor | list[Any]:
    """Return the texts' embeddings `(batch, dim)`, their token vectors without padding, or all their features."""
    if output_value == "sentence_embedding":
        return text_vectors(output)
    masks = output["attention_mask"].bool()
    if output_value == "token_embeddings":
        return [vectors[mask] for vectors, mask in zip(output["token_embeddings"], masks, strict=True)]
    tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
    return [{name: value[row] for name, value in tensors.items()} for row in range(len(masks))]


def check_truncate_dim(dim: int | None) -> int | None:
    """Return `dim`, or raise a ValueError when it is neither None nor a positive whole number."""
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, Integral) or dim < 1):
        raise ValueError(f"truncate_dim must be a positive number of dimensions, got {dim!r}")
    return dim


def check_modules(modules: Sequence[nn.Module], given: int | None = None) -> int | None:
    """Check that every block takes vectors of the size which the block before it gives.

    Args:
        modules: blocks in the order in which they run.
        given: size of the vectors that the first is given; None when unknown.

    Returns:
        The size of the vectors that the last gives.

    Raises:
        TypeError: something that is no module.
        ValueError: no blocks, or sizes that differ.
    """
    if not modules and given is None:
        raise ValueError("modules is empty; give at least a Transformer and a Pooling")
    for position, module in enumerate(modules):
        name = f"module {position} ({type(module).__name__})"
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name} is no building block; modules is a list of them, e.g. [Transformer, Pooling]")
        if isinstance(module, Router):
            routes = [list(cast(nn.Sequential, route)) for route in module.sub_modules.values()]
            sizes = [check_modules(route, given) for route in routes if route]
            given = next((size for size in sizes if size is not None), given)
            continue
        config = module.config() if isinstance(module, Module) else {}
        wanted = next((config[key] for key in SIZE_KEYS if key in config), None)
        if wanted is not None and given is not None and wanted != given:
            raise ValueError(
                f"{name} expects vectors of size {wanted}, the one before gives {given}; make it with {given}"
            )
        for size in ("get_sentence_embedding_dimension", "get_word_embedding_dimension"):
            if callable(getattr(module, size, None)):
                given = getattr(module, size)()
                break
    return given
