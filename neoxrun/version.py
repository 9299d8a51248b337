"""The version, for the package index, the command line and results."""

__version__ = "0.1.0"
