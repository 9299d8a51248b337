"""Checkpoint files: names on disk, merge rules, loading and saving."""
