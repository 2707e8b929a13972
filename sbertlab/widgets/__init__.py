"""Panels for notebooks. A panel only shows what the rooms below compute, and has a static picture for other pages."""

from __future__ import annotations

from sbertlab.widgets.benchmark_browser import BenchmarkBrowser
from sbertlab.widgets.embedding_map import EmbeddingMap
from sbertlab.widgets.linked_maps import LinkedMaps, linked
from sbertlab.widgets.loss_playground import LossPlayground
from sbertlab.widgets.panel import Panel
from sbertlab.widgets.similarity_explorer import SimilarityExplorer
from sbertlab.widgets.threshold_lab import ThresholdLab
from sbertlab.widgets.training_monitor import TrainingMonitor

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
