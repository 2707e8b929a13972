"""Panels for notebooks: what can be touched. Each lies in a file of its own; import them from here.

A panel only shows; what it shows is computed by the modules below. Where no widget can run (GitHub, nbviewer, an HTML
export), its static picture is shown.
"""

from __future__ import annotations

from sbertlab.embedding_map import EmbeddingMap
from sbertlab.linked_maps import LinkedMaps, linked
from sbertlab.panel import Panel

__all__ = ["EmbeddingMap", "LinkedMaps", "Panel", "linked"]
