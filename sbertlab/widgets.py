"""Panels for notebooks: what can be touched. Each lies in a file of its own; import them from here.

A panel only shows; what it shows is computed by the modules below. Where no widget can run (GitHub, nbviewer, an HTML
export), its static picture is shown.
"""

from __future__ import annotations

from sbertlab.benchmark_browser import BenchmarkBrowser
from sbertlab.embedding_map import EmbeddingMap
from sbertlab.linked_maps import LinkedMaps, linked
from sbertlab.loss_playground import LossPlayground
from sbertlab.panel import Panel
from sbertlab.similarity_explorer import SimilarityExplorer
from sbertlab.threshold_lab import ThresholdLab
from sbertlab.training_monitor import TrainingMonitor

__all__ = [
    "BenchmarkBrowser",
    "EmbeddingMap",
    "LinkedMaps",
    "LossPlayground",
    "Panel",
    "SimilarityExplorer",
    "ThresholdLab",
    "TrainingMonitor",
    "linked",
]
