"""`SentenceTransformer`: encode, compare, save and load; how texts run through the blocks is in `batching`."""

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sbertlab.checks import check_choice, checked_number
from sbertlab.data import collate
from sbertlab.data.texts import Text, as_texts, distinct_texts, warn_of_truncation
from sbertlab.encoder.batching import ChunkedEncoder, default_token_budget
from sbertlab.encoder.fingerprint import fingerprint
from sbertlab.encoder.load import load_modules
from sbertlab.encoder.save import model_card, save_modules
from sbertlab.models import Features, Router, TokenizerModule, output_dimension
from sbertlab.storage.find import find_model
from sbertlab.util import SimilarityFunction, quantize_embeddings

logger = logging.getLogger(__name__)
WINDOW = 65_536  # texts tokenised and sorted at a time, so that memory stays bounded


class SentenceTransformer(ChunkedEncoder):
    """An encoder of texts: a model by name or folder, or building blocks in a row.

    Args:
        model_name_or_path: a folder, a name on the Hub, one of the packaged models, or the URL of a zip.
        modules: building blocks, run in order, instead of a name.
        device: "cuda", "mps" or "cpu"; None takes the best one available.
        cache_folder, token, revision, local_files_only: how to download; `use_auth_token` is an older name of `token`.
        prompts: texts put in front, by name, e.g. `{"query": "query: "}`; `default_prompt_name` is for unnamed ones.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; used by `similarity`.
        truncate_dim: keep only this many dimensions (Matryoshka models).
        trust_remote_code: run code that comes with the model. Off: weights and known building blocks only.
        model_kwargs, tokenizer_kwargs: passed to transformers, e.g. `{"dtype": torch.bfloat16}`.
    """

    fit: Callable[..., pd.DataFrame]  # training.fit, bound to the class by sbertlab/__init__.py: imports point down

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
        if modules is not None:
            blocks = OrderedDict((str(index), module) for index, module in enumerate(modules))
        else:
            name, token = cast(str, model_name_or_path), use_auth_token if token is None else token
            folder = find_model(name, revision, cache_folder, token, local_files_only)
            blocks, settings = load_modules(folder, model_kwargs or {}, tokenizer_kwargs or {}, trust_remote_code)
        super().__init__(blocks)
        self.prompts: dict[str, str] = {**(settings.get("prompts") or {}), **(prompts or {})}
        self.default_prompt_name: str | None = default_prompt_name or settings.get("default_prompt_name")
        self._prompt(None, None)  # is there a default prompt of this name
        similarity = similarity_fn_name or settings.get("similarity_fn_name") or "cosine"
        self.similarity_fn_name: str = SimilarityFunction(similarity).value
        self.truncate_dim = settings.get("truncate_dim") if truncate_dim is None else truncate_dim
        self.model_name = str(model_name_or_path) if model_name_or_path is not None else None
        first = next(self[0].parameters(), None)
        if first is not None and first.is_floating_point():
            for block in list(self)[1:]:
                block.to(first.dtype)  # everything behind a bfloat16 encoder is bfloat16
        self.to(torch.device(device) if device is not None else best_device())
        self.eval()

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
        precision: str | None = "float32",
        task: str | None = None,
        task_metadata: Any = None,
        hf_split: str | None = None,
        hf_subset: str | None = None,
        prompt_type: Any = None,
    ) -> Any:
        """Return the embeddings `(texts, dim)`, or `(dim,)` for one text, in order; equal texts are computed once.

        Args:
            batch_size: texts of 32 tokens (of 1,024 on an accelerator) per forward pass; does not affect the results.
            show_progress_bar: None shows it if the logger's level is INFO or finer.
            output_value: "sentence_embedding"; "token_embeddings" for one `(tokens, dim)` tensor per text, without
                padding; None for one dictionary of all features per text. Equal texts share the latter two.
            convert_to_numpy, convert_to_tensor: return an array, or a tensor on the device; else a list of tensors.
            device: moves the model there first.
            normalize_embeddings: scale each to length 1, after truncation to `truncate_dim`.
            prompt: text put in front of each; `prompt_name` takes it from `prompts`.
            precision: "float32" or None, or "int8", "uint8", "binary", "ubinary" for quantised embeddings.
            task: the route, for models with routes.
            task_metadata, hf_split, hf_subset, prompt_type: passed by `mteb.evaluate`, whose `sentences` are batches.
        """
        if task_metadata is not None:
            arguments = {"batch_size": batch_size, "show_progress_bar": show_progress_bar, "device": device}
            arguments |= {"normalize_embeddings": normalize_embeddings, "truncate_dim": truncate_dim}
            return self._encode_for_mteb(sentences, task_metadata, prompt_type, precision=precision, **arguments)
        check_choice("output_value", output_value, ("sentence_embedding", "token_embeddings", None))
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        checked_number("truncate_dim", 1 if dim is None else dim, 1, whole=True)
        if device is not None:
            self.to(device)
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        texts, single = as_texts(sentences)
        prompt = self._prompt(prompt, prompt_name)
        distinct, rows = distinct_texts(texts, prompt)
        budget = max(1, int(batch_size) * default_token_budget(self.device) // 32)
        as_array = convert_to_numpy and not convert_to_tensor
        windows: list[Any] = []
        tokens = [np.zeros((2, 0), dtype=np.int64)]
        bar = tqdm(total=len(distinct), desc="Encoding", unit="text", disable=not show_progress_bar)
        with evaluating(self), bar:
            for start in range(0, len(distinct), WINDOW):
                window = distinct[start : start + WINDOW]
                found, counts = self.outputs(window, budget, task, prompt, output_value, bar)
                windows.append(found.cpu() if as_array and isinstance(found, Tensor) else found)
                tokens.append(counts)
        truncated, read = np.concatenate(tokens, axis=1)[:, rows]
        warn_of_truncation(truncated, self.max_seq_length, read)
        if output_value != "sentence_embedding":
            outputs = list(chain.from_iterable(windows))
            results = [outputs[row] for row in rows]
            return results[0] if single else results
        embeddings: Any = torch.cat(windows) if windows else torch.empty(0, output_dimension(list(self)) or 0)
        embeddings = embeddings[:, :dim][np.array(rows, dtype=np.int64)]
        if normalize_embeddings:
            embeddings = nn.functional.normalize(embeddings, dim=-1)
        if precision not in (None, "float32"):
            embeddings = torch.from_numpy(quantize_embeddings(embeddings.float().cpu().numpy(), precision))
        if as_array:
            embeddings = (embeddings.float() if embeddings.dtype == torch.bfloat16 else embeddings).cpu().numpy()
        elif not convert_to_tensor:
            embeddings = list(embeddings)
        return embeddings[0] if single else embeddings

    def encode_query(self, sentences: Any, **arguments: Any) -> Any:
        """`encode` with the prompt and the route named "query", if the model has them."""
        return self._encode_as(("query",), sentences, arguments)

    def encode_document(self, sentences: Any, **arguments: Any) -> Any:
        """`encode` with the prompt and the route named "document", "passage" or "corpus", if the model has them."""
        return self._encode_as(("document", "passage", "corpus"), sentences, arguments)

    def _encode_as(self, names: Sequence[str], sentences: Any, arguments: dict[str, Any]) -> Any:
        if arguments.get("prompt") is None and arguments.get("prompt_name") is None:
            arguments["prompt_name"] = next((name for name in names if name in self.prompts), None)
        routes = {route for block in self.modules() if isinstance(block, Router) for route in block.sub_modules}
        arguments.setdefault("task", next((name for name in names if name in routes), None))
        return self.encode(sentences, **arguments)

    def _encode_for_mteb(self, batches: Any, task_metadata: Any, prompt_type: Any, **arguments: Any) -> Any:
        """Encode mteb's batches of texts with the prompt that mteb chooses for the task."""
        from mteb.models.abs_encoder import get_prompt_name

        encode = {"query": self.encode_query, "document": self.encode_document}.get(prompt_type, self.encode)
        prompt_name = get_prompt_name(self.prompts, task_metadata, prompt_type)
        return encode([text for batch in batches for text in batch["text"]], prompt_name=prompt_name, **arguments)

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if prompt is not None or name is None:
            return prompt or ""
        check_choice("prompt_name", name, self.prompts)
        return self.prompts[name]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the similarity of every row of one with every row of the other, `(n, m)`."""
        return SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the similarity of row i of one with row i of the other, `(n,)`."""
        return SimilarityFunction.to_similarity_pairwise_fn(self.similarity_fn_name)(embeddings1, embeddings2)

    def evaluate(self, evaluator: Any, output_path: str | Path | None = None) -> dict[str, float]:
        """Run an evaluator on this model and return its metrics."""
        return evaluator(self, output_path=output_path)

    @property
    def mteb_model_meta(self) -> Any:
        """The key of mteb's cache: the model's name, with its fingerprint as the revision."""
        from mteb.models.model_meta import ModelMeta

        name = f"sbertlab/{Path(self.model_name or 'unnamed').name}"
        return ModelMeta.create_empty({"name": name, "revision": fingerprint(self)[:16]})

    def smart_batching_collate(self, examples: Sequence[Any]) -> tuple[list[Features], Tensor | None]:
        """Collate InputExamples for a hand-written loop: one features dictionary per column, and the labels."""
        columns, labels = collate(examples)
        return [self.tokenize(column) for column in columns], labels

    @property
    def tokenizer(self) -> Any:
        """The first module's tokenizer."""
        return self[0].tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self[0].tokenizer = tokenizer

    def get_max_seq_length(self) -> int | None:
        """The field's other name for `max_seq_length`."""
        return self.max_seq_length

    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the size of an embedding, after `truncate_dim`; None if no block states one."""
        size = output_dimension(list(self))
        return size if size is None or self.truncate_dim is None else min(size, self.truncate_dim)

    get_embedding_dimension = get_sentence_embedding_dimension

    def _first_module(self) -> nn.Module:
        return self[0]

    def _last_module(self) -> nn.Module:
        return self[-1]

    def match_vocabulary(self) -> None:
        """Give tokens that were added to a tokenizer vectors of their own, as `encode` does."""
        for block in self.modules():
            if isinstance(block, TokenizerModule):
                block.match_vocabulary()

    def save(
        self, path: str | Path, model_name: str | None = None, create_model_card: bool = True, train_datasets: Any = ()
    ) -> None:
        """Write the model folder, atomically; sentence-transformers 2.2 to 6.2 reads it with the same embeddings.

        An earlier model in `path` is replaced. `model_name` and `train_datasets` are named in the model card.
        """
        self.match_vocabulary()
        settings = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
        card = model_card(self, model_name, train_datasets) if create_model_card else None
        save_modules(
            self._modules, Path(path).expanduser(), {name: getattr(self, name) for name in settings}, model_card=card
        )

    save_pretrained = save

    def push_to_hub(
        self, repo_id: str, token: str | None = None, private: bool | None = None, commit_message: str = "Add model"
    ) -> str:
        """Write the model to a repository on the Hub, created if missing; return the commit's address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder, model_name=repo_id)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))


def best_device() -> torch.device:
    """Return the accelerator that torch sees, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found if found is not None else torch.device("cpu")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all its parts into evaluation mode; afterwards each returns to its previous mode."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
