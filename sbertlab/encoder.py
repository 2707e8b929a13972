"""`SentenceTransformer`: building blocks in a row, and what people do with them.

The forward pass belongs to the batch: all texts are tokenised together, sorted by their real token count and run in chunks
of a fixed token budget (`batching`). `encode` and training use the very same chunks.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sbertlab.batching import PaddingMeter, default_token_budget, original_order, token_budget_chunks
from sbertlab.model_folder import load_modules, save_modules
from sbertlab.model_source import find_model
from sbertlab.models import Features, Pooling, Router, TokenizerModule, Transformer, features_to, output_dimension
from sbertlab.util import SimilarityFunction, quantize_embeddings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

WINDOW = 65_536
"""Texts that `encode` tokenises and sorts at a time, so that memory stays bounded on large corpora."""

Text = str | Mapping[str, str]
"""A text, or `{route: text}` for a model with routes."""


class TruncationWarning(UserWarning):
    """Some texts were longer than `max_seq_length`, and what came after was not read."""


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
        ValueError: neither or both of name and modules; an unknown similarity or prompt.
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
        if modules is None:
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
            blocks = OrderedDict((str(index), module) for index, module in enumerate(modules))
            check_sizes(list(modules))
        super().__init__(blocks)
        self.prompts: dict[str, str] = dict(settings.get("prompts") or {}) | dict(prompts or {})
        self.default_prompt_name: str | None = default_prompt_name or settings.get("default_prompt_name")
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise ValueError(f"default_prompt_name {self.default_prompt_name!r} is not one of {list(self.prompts)}")
        self.similarity_fn_name = similarity_fn_name or settings.get("similarity_fn_name") or "cosine"
        self.truncate_dim = truncate_dim if truncate_dim is not None else settings.get("truncate_dim")
        self.model_name = str(model_name_or_path) if model_name_or_path is not None else None
        self.to(torch.device(device) if device is not None else best_device())
        self.eval()

    # -- Encoding ------------------------------------------------------------------------------------------------------

    def forward(self, features: Features) -> Features:
        """Run the blocks: `input_ids` and `attention_mask` `(batch, tokens)` in, `sentence_embedding` `(batch, dim)` out."""
        for block in self:
            features = block(features)
        return features

    def chunks(
        self,
        texts: Sequence[Text],
        token_budget: int | None = None,
        task: str | None = None,
        meter: PaddingMeter | None = None,
    ) -> Iterator[tuple[list[int], Features]]:
        """Tokenise the texts together and yield them in token-budget chunks, longest first.

        Args:
            texts: strings, or `{route: text}` for a model with routes.
            token_budget: padded tokens a chunk; chosen by the device when None.
            task: the route of texts that name none.
            meter: counts the tokens and the padding.

        Yields:
            The positions of the chunk's texts, and their padded features on the CPU.
        """
        budget = default_token_budget(self.device) if token_budget is None else token_budget
        cut_texts = cut_tokens = read_tokens = 0
        for route, positions, plain in by_route(texts, task):
            block = self._text_block(route)
            tokens = block.token_ids(plain)
            read_tokens += sum(tokens.lengths)
            cut_tokens += sum(tokens.cut)
            cut_texts += sum(cut > 0 for cut in tokens.cut)
            for chunk in token_budget_chunks(tokens.lengths, budget):
                features = block.pad([tokens.ids[index] for index in chunk])
                if meter is not None:
                    meter.add([len(tokens.ids[index]) for index in chunk])
                if route is not None:
                    features["route"] = route
                yield [positions[index] for index in chunk], features
        if cut_texts:
            warnings.warn(
                f"{cut_texts:,} of {len(texts):,} texts are longer than max_seq_length={self.max_seq_length}: {cut_tokens:,} of "
                f"{cut_tokens + read_tokens:,} tokens ({cut_tokens / (cut_tokens + read_tokens):.1%}) were not read. "
                "Raise model.max_seq_length or split the texts.",
                TruncationWarning,
                stacklevel=3,
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
        """
        positions, parts = [], []
        for chunk, features in self.chunks(texts, token_budget, task, meter):
            positions.append(chunk)
            parts.append(self(features_to(features, self.device))["sentence_embedding"])
        return torch.cat(parts)[original_order(positions).to(self.device)]

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
    ) -> Any:
        """Return the embeddings of the texts, in their order; equal texts are computed once.

        Args:
            sentences: one text, or a list, tuple, pandas Series or one-dimensional array of texts.
            batch_size: how much goes through the encoder at a time: texts of 32 tokens on a CPU, 1,024 on an accelerator.
                A matter of memory and speed alone; results do not depend on it.
            show_progress_bar: None shows it where the logger's level is INFO or finer, as in the field.
            output_value: "sentence_embedding"; "token_embeddings" for one `(tokens, dim)` tensor a text; None for one
                dictionary of all features a text.
            convert_to_numpy: an array; otherwise a list of tensors.
            convert_to_tensor: one tensor on the device; wins over `convert_to_numpy`.
            device: moves the model there first.
            normalize_embeddings: scale each to length 1, after truncation.
            prompt: text put in front of each.
            prompt_name: the same by name, from `prompts`.
            truncate_dim: keep only so many dimensions.
            precision: "float32", or "int8", "uint8", "binary", "ubinary" for quantised embeddings.
            task: the route, for models with routes.

        Returns:
            `(texts, dim)`, or `(dim,)` for one text; an empty input gives `(0, dim)`.

        Raises:
            TypeError: something that is not a text, with its position.
            ValueError: an unknown `prompt_name`, `output_value`, `precision` or route.
        """
        if output_value not in ("sentence_embedding", "token_embeddings", None):
            raise ValueError(f'output_value must be "sentence_embedding", "token_embeddings" or None, got {output_value!r}')
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
        if precision not in ("float32", "int8", "uint8", "binary", "ubinary"):
            raise ValueError(f"precision must be one of float32, int8, uint8, binary, ubinary, got {precision!r}")
        if device is not None:
            self.to(device)
        texts, single = as_texts(sentences)
        prompt = self._prompt(prompt, prompt_name)
        distinct, rows = distinct_texts(texts, prompt)
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        budget = max(1, batch_size * default_token_budget(self.device) // 32)
        training = self.training
        self.eval()
        try:
            found = self._run(distinct, budget, task, prompt, output_value, show_progress_bar)
        finally:
            self.train(training)
        if output_value != "sentence_embedding":
            found = [found[row] for row in rows]
            return found[0] if single else found
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        embeddings = torch.stack(found)[rows] if found else torch.empty(0, self.get_sentence_embedding_dimension() or 0)
        if dim is not None:
            embeddings = embeddings[:, : check_truncate_dim(dim)]
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
        if isinstance(self[0], Router):
            arguments.setdefault("task", next((name for name in names if name in self[0].sub_modules), None))
        return self.encode(sentences, **arguments)

    def _run(
        self, texts: list[Text], budget: int, task: str | None, prompt: str, output_value: str | None, progress: bool
    ) -> list[Any]:
        """Forward all texts, window by window; return one result a text, in order."""
        found: list[Any] = [None] * len(texts)
        prompt_length = self._prompt_length(prompt)
        with tqdm(total=len(texts), desc="Encoding", unit="text", disable=not progress) as bar:
            for start in range(0, len(texts), WINDOW):
                for positions, features in self.chunks(texts[start : start + WINDOW], budget, task):
                    if prompt_length:
                        features["prompt_length"] = prompt_length
                    output = self(features_to(features, self.device))
                    for position, result in zip(positions, split_output(output, output_value), strict=True):
                        found[start + position] = result
                    bar.update(len(positions))
        return found

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"prompt_name {name!r} is not one of this model's prompts {list(self.prompts)}")
        return self.prompts[name]

    def _prompt_length(self, prompt: str) -> int:
        """Tokens at the start of each text that a Pooling without the prompt leaves out, special tokens included."""
        if not prompt or all(getattr(block, "include_prompt", True) for block in self.modules()):
            return 0
        ids = self._text_block(None).token_ids([prompt]).ids[0]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)

    def _text_block(self, route: str | None) -> TokenizerModule:
        """Return the block that turns texts into tokens, on the route of the texts."""
        block = self[0].begin(route) if isinstance(self[0], Router) else self[0]
        if not isinstance(block, TokenizerModule):
            raise TypeError(
                f"the first module is {type(block).__name__}, which reads no text; begin with Transformer or StaticEmbedding"
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

    # -- Parts ---------------------------------------------------------------------------------------------------------

    def tokenize(self, texts: Sequence[str]) -> Features:
        """Return the padded features of the texts, `(batch, tokens)` each, ready for `forward`."""
        return self._text_block(None).tokenize(texts)

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
        """Most tokens of a text that are read, special tokens included."""
        return self[0].max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self[0].max_seq_length = value

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
            if isinstance(block, Transformer):
                block.match_vocabulary()
        card = self._model_card(model_name, train_datasets or []) if create_model_card else None
        save_modules(OrderedDict(self.named_children()), Path(path), settings, format=format, model_card=card)

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
            return str(api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "model", commit_message=commit_message))

    def _model_card(self, model_name: str | None, train_datasets: Sequence[str]) -> str:
        title = model_name or self.model_name or "A sentence encoder"
        tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "sbertlab"]
        front = ["---", "library_name: sentence-transformers", "pipeline_tag: sentence-similarity", "tags:"]
        front += [f"- {tag}" for tag in tags]
        if train_datasets:
            front += ["datasets:", *(f"- {name}" for name in train_datasets)]
        blocks = "\n".join(f"{index}. {block}" for index, block in enumerate(self))
        return "\n".join(
            [
                *front,
                "---",
                "",
                f"# {title}",
                "",
                f"Maps texts of up to {self.max_seq_length} tokens to vectors of {self.get_sentence_embedding_dimension()} dimensions; "
                f"compare them by {self.similarity_fn_name} similarity.",
                "",
                "```python",
                "from sbertlab import SentenceTransformer  # or: from sentence_transformers import SentenceTransformer",
                "",
                'model = SentenceTransformer("path/to/this/folder")',
                'embeddings = model.encode(["A sentence", "Another sentence"])',
                "```",
                "",
                "Building blocks:",
                "",
                "```",
                blocks,
                "```",
                "",
            ]
        )


# -- Texts in, results out: small pure functions -----------------------------------------------------------------------


def best_device() -> torch.device:
    """Return the accelerator that torch sees, else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True) if torch.accelerator.is_available() else None
    return found if found is not None else torch.device("cpu")


def as_texts(sentences: Any) -> tuple[list[Text], bool]:
    """Return the texts as a list, and whether it was one text alone.

    Raises:
        TypeError: bytes, a number, a two-dimensional array and the like.

    >>> as_texts("one")
    (['one'], True)
    >>> as_texts(np.array(["a", "b"]))
    (['a', 'b'], False)
    """
    if isinstance(sentences, (str, Mapping)):
        return [sentences], True
    if getattr(sentences, "ndim", 1) != 1 or isinstance(sentences, (bytes, bytearray)) or not hasattr(sentences, "__iter__"):
        raise TypeError(
            f"sentences must be a text or a list, tuple, pandas Series or one-dimensional array of texts, "
            f"got {type(sentences).__name__}" + (f" of shape {sentences.shape}" if hasattr(sentences, "shape") else "")
        )
    texts = sentences.tolist() if hasattr(sentences, "tolist") else list(sentences)
    for position, text in enumerate(texts):
        if not isinstance(text, (str, Mapping)):
            raise TypeError(
                f"sentences[{position}] is {type(text).__name__} ({text!r:.60}), expected str; "
                "convert the column with .astype(str) or drop missing values first"
            )
    return texts, False


def distinct_texts(texts: Sequence[Text], prompt: str) -> tuple[list[Text], list[int]]:
    """Return each distinct text once, with the prompt in front, and for every text its row among them.

    >>> distinct_texts(["b", "a", "b"], "say: ")
    (['say: b', 'say: a'], [0, 1, 0])
    """
    rows: dict[Any, int] = {}
    keys = [text if isinstance(text, str) else tuple(text.items()) for text in texts]
    index = [rows.setdefault(key, len(rows)) for key in keys]
    add: Callable[[Any], Text] = lambda key: (  # noqa: E731
        prompt + key if isinstance(key, str) else {route: prompt + text for route, text in key}
    )
    return [add(key) for key in rows], index


def by_route(texts: Sequence[Text], task: str | None) -> Iterator[tuple[str | None, list[int], list[str]]]:
    """Yield the texts route by route: its name, the positions of its texts, and the texts themselves.

    >>> list(by_route([{"query": "a"}, "b", {"query": "c"}], None))
    [('query', [0, 2], ['a', 'c']), (None, [1], ['b'])]

    Raises:
        ValueError: a dictionary with another number of keys than one.
    """
    routes: dict[str | None, tuple[list[int], list[str]]] = {}
    for position, text in enumerate(texts):
        route, plain = task, text
        if isinstance(text, Mapping):
            if len(text) != 1:
                raise ValueError(f"texts[{position}] must be {{route: text}} with one key, got the keys {list(text)}")
            route, plain = next(iter(text.items()))
        positions, plains = routes.setdefault(route, ([], []))
        positions.append(position)
        plains.append(plain)  # type: ignore[arg-type]
    for route, (positions, plains) in routes.items():
        yield route, positions, plains


def split_output(output: Features, output_value: str | None) -> list[Any]:
    """Return one result a text of the batch: its embedding, its token vectors without padding, or all its features."""
    if output_value == "sentence_embedding":
        return list(output["sentence_embedding"])
    masks = output["attention_mask"].bool()
    if output_value == "token_embeddings":
        return [vectors[mask] for vectors, mask in zip(output["token_embeddings"], masks, strict=True)]
    tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
    return [{name: value[row] for name, value in tensors.items()} for row in range(len(masks))]


def check_truncate_dim(dim: int) -> int:
    """Return `dim`, or raise a ValueError when it is no positive whole number."""
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(f"truncate_dim must be a positive number of dimensions, got {dim!r}")
    return dim


def check_sizes(modules: Sequence[nn.Module]) -> None:
    """Raise a ValueError where a block's input size is not what the block before it gives."""
    if not modules:
        raise ValueError("modules is empty; give at least a Transformer and a Pooling")
    given: int | None = None
    for position, module in enumerate(modules):
        wanted = getattr(module, "word_embedding_dimension", None) if isinstance(module, Pooling) else None
        wanted = getattr(module, "in_features", getattr(module, "dimension", wanted))
        if wanted is not None and given is not None and wanted != given:
            raise ValueError(
                f"module {position} ({type(module).__name__}) expects vectors of size {wanted}, "
                f"the one before gives {given}; make it with {given}"
            )
        for name in ("get_sentence_embedding_dimension", "get_word_embedding_dimension"):
            if callable(getattr(module, name, None)):
                given = getattr(module, name)()
                break


