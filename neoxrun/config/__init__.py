"""GPT-NeoX YAML to typed settings, and the network that they describe. No torch."""
