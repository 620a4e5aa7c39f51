"""LexaLCM: prepare data for, train and run Large Concept Models."""

__version__ = "0.1.0"
