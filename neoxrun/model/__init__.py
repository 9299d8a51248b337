"""The GPT-NeoX network."""
