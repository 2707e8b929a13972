"""Panels for notebooks. A panel only shows what the rooms below compute, and has a static picture for other pages."""

try:
    import ipywidgets as _ipywidgets  # noqa: F401
except ImportError as error:
    raise ImportError('the widgets need ipywidgets: pip install "sbertlab[lab]"') from error

from sbertlab.widgets.benchmark_browser import BenchmarkBrowser
from sbertlab.widgets.embedding_map import EmbeddingMap, LinkedMaps, linked
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
