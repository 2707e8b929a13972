"""Different building blocks for different kinds of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from sbertlab.models.module import Features, Module, output_dimension
from sbertlab.models.transformer import TokenizerModule


class Router(Module):
    """Different modules for different kinds of texts, e.g. a route for queries and one for documents.

    The route comes from `features["route"]`, which `encode(..., task="query")`, `encode_query`, `encode_document` and
    texts given as `{"query": text}` set.

    Args:
        sub_modules: modules by route, run in order; a route without modules passes its texts on unchanged.
        default_route: taken when a text names none.
        allow_empty_key: where there is no default either, take the first route, as the field does since version 5
            (version 2.2 passed such texts on unchanged); False makes naming a route obligatory.

    Raises:
        ValueError: no routes, a name that torch cannot take, or a default that is not one of them.
    """

    def __init__(
        self,
        sub_modules: Mapping[str, Sequence[Module]],
        default_route: str | None = None,
        allow_empty_key: bool = True,
    ) -> None:
        super().__init__()
        if not sub_modules:
            raise ValueError("sub_modules must name at least one route, e.g. {'query': [...], 'document': [...]}")
        if default_route is not None and default_route not in sub_modules:
            raise ValueError(f"default_route {default_route!r} is not one of the routes {list(sub_modules)}")
        try:
            self.sub_modules = nn.ModuleDict({route: nn.Sequential(*modules) for route, modules in sub_modules.items()})
        except KeyError as error:
            raise ValueError(f"a route has a name that torch cannot take ({error}); choose another") from error
        self.default_route, self.allow_empty_key = default_route, allow_empty_key

    @classmethod
    def for_query_document(cls, query_modules: Sequence[Module], document_modules: Sequence[Module]) -> Router:
        """Make a router with the two routes that `encode_query` and `encode_document` take."""
        routes = {"query": query_modules, "document": document_modules}
        return cls(routes, default_route="document", allow_empty_key=False)

    def route(self, name: str | None) -> nn.Sequential:
        """Return the modules of a route; of the default or first one when `name` is None.

        Raises:
            ValueError: the route is unknown, or none was named and none may be left out.
        """
        if name is None:
            name = self.default_route
        if name is None and self.allow_empty_key:
            name = next(iter(self.sub_modules))
        if name is None or name not in self.sub_modules:
            raise ValueError(
                f"route {name!r} is not one of {list(self.sub_modules)}; name one by encode(..., task=...), "
                "by encode_query / encode_document, or by texts such as {'query': text}"
            )
        return cast(nn.Sequential, self.sub_modules[name])

    def readers(self) -> list[TokenizerModule]:
        """Return the blocks that tokenise texts where the router comes first in an encoder, the default's first."""
        routes = sorted(self.sub_modules.items(), key=lambda item: item[0] != self.default_route)
        first = [next(iter(cast(nn.Sequential, modules)), None) for _, modules in routes]
        return [block for block in first if isinstance(block, TokenizerModule)]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the default, or first, route that has one."""
        return self.readers()[0].tokenizer

    @property
    def max_seq_length(self) -> int | None:
        """The largest length limit among the routes; setting it sets all."""
        limits = [block.max_seq_length for block in self.readers()]
        return max((limit for limit in limits if limit is not None), default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        for block in self.readers():
            block.max_seq_length = value

    def forward(self, features: Features) -> Features:
        """Run the modules of the route that the features name."""
        return self.route(features.get("route"))(features)

    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the size of the vectors, the same on every route; None where no block states one."""
        sizes = [output_dimension(list(cast(nn.Sequential, modules))) for modules in self.sub_modules.values()]
        return next((size for size in sizes if size is not None), None)


Asym = Router
"""The field's older name."""
