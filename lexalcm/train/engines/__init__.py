"""Engines: how a model is held and updated, behind one protocol."""
