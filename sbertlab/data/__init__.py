"""Data for training: what a text is, examples and batches of them, readers, loaders, and the packaged corpus."""

from sbertlab.data.examples import InputExample, collate, examples_from_frame, examples_to_frame, groups_of
from sbertlab.data.loaders import DenoisingAutoEncoderDataset, NoDuplicatesDataLoader, SentenceLabelDataset
from sbertlab.data.nemo import NeMoReader, write_nemo
from sbertlab.data.readers import (
    LabelSentenceReader,
    NLIDataReader,
    PairedFilesReader,
    STSBenchmarkDataReader,
    STSDataReader,
    TripletReader,
)

__all__ = [
    "DenoisingAutoEncoderDataset",
    "InputExample",
    "LabelSentenceReader",
    "NLIDataReader",
    "NeMoReader",
    "NoDuplicatesDataLoader",
    "PairedFilesReader",
    "STSBenchmarkDataReader",
    "STSDataReader",
    "SentenceLabelDataset",
    "TripletReader",
    "collate",
    "examples_from_frame",
    "examples_to_frame",
    "groups_of",
    "write_nemo",
]
