"""Different building blocks for different kinds of texts."""

from collections.abc import Mapping, Sequence
from typing import Self, cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from sbertlab.checks import check_choice
from sbertlab.models.module import Features, Module, output_dimension
from sbertlab.models.transformer import TokenizerModule


class Router(Module):
    """Different modules for different kinds of texts, e.g. a route for queries and one for documents.

    The route is `features["route"]`, which `encode(..., task="query")`, `encode_query`, `encode_document` and texts
    given as `{"query": text}` set. `sub_modules` are the modules by route, `default_route` is for texts that name none;
    without a default the first route is, unless `allow_empty_key=False` requires one.
    """

    def __init__(
        self,
        sub_modules: Mapping[str, Sequence[Module]],
        default_route: str | None = None,
        allow_empty_key: bool = True,
    ) -> None:
        super().__init__()
        if default_route is not None:
            check_choice("default_route", default_route, sub_modules)
        self.sub_modules = nn.ModuleDict({route: nn.Sequential(*modules) for route, modules in sub_modules.items()})
        self.default_route, self.allow_empty_key = default_route, allow_empty_key

    @classmethod
    def for_query_document(cls, query_modules: Sequence[Module], document_modules: Sequence[Module]) -> Self:
        """Make a router with the two routes that `encode_query` and `encode_document` use."""
        routes = {"query": query_modules, "document": document_modules}
        return cls(routes, default_route="document", allow_empty_key=False)

    def route(self, name: str | None) -> nn.Sequential:
        """Return the modules of a route; of the default or first one if `name` is None."""
        if name is None:
            name = self.default_route or (next(iter(self.sub_modules)) if self.allow_empty_key else None)
        if name is None or name not in self.sub_modules:
            remedy = "choose one with encode(..., task=...) or texts such as {'query': text}"
            raise ValueError(f"route {name!r} is not one of {list(self.sub_modules)}; {remedy}")
        return cast(nn.Sequential, self.sub_modules[name])

    def _readers(self) -> list[TokenizerModule]:
        """Return the first block of every route that tokenises texts, the default route's first."""
        routes = sorted(self.sub_modules, key=lambda route: route != self.default_route)
        first = [next(iter(self.route(route)), None) for route in routes]
        return [block for block in first if isinstance(block, TokenizerModule)]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the default, or first, route that has one."""
        return self._readers()[0].tokenizer

    @property
    def max_seq_length(self) -> int | None:
        """The largest length limit among the routes; setting it sets all."""
        return max((block.max_seq_length for block in self._readers() if block.max_seq_length), default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        for block in self._readers():
            block.max_seq_length = value

    def forward(self, features: Features) -> Features:
        """Run the modules of the route that the features name."""
        return self.route(features.get("route"))(features)

    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the size of the vectors, the same on every route; None if no block states one."""
        sizes = [output_dimension(list(self.route(route))) for route in self.sub_modules]
        return next((size for size in sizes if size is not None), None)


Asym = Router
"""The field's older name."""
