"""Folders of weights, looked into, converted and compared, each without loading the whole model."""
