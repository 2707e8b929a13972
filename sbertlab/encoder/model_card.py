"""The README.md of a saved model, which is also its page on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAGE = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- sbertlab
{datasets}---

# {title}

Maps texts of {length} to vectors of {dimension} dimensions; compare them by {similarity} similarity.

```python
from sbertlab import SentenceTransformer  # or: from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
embeddings = model.encode(["A sentence", "Another sentence"])
```

Building blocks:

```
{blocks}
```
"""


def model_card(model: Any, name: str | None = None, train_datasets: Sequence[str] = ()) -> str:
    """Return the page, in Markdown with the Hub's header.

    Args:
        model: a SentenceTransformer.
        name: the title; what the model was loaded from when None.
        train_datasets: names of data sets, for the header.
    """
    datasets = "".join(["datasets:\n", *(f"- {dataset}\n" for dataset in train_datasets)]) if train_datasets else ""
    return PAGE.format(
        datasets=datasets,
        title=name or model.model_name or "A sentence encoder",
        length="any length" if model.max_seq_length is None else f"up to {model.max_seq_length} tokens",
        dimension=model.get_sentence_embedding_dimension(),
        similarity=model.similarity_fn_name,
        blocks="\n".join(f"{place}. {type(block).__name__}({block.extra_repr()})" for place, block in enumerate(model)),
    )
