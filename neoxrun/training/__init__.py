"""Fine-tuning: rows of tokens to trained weights, with DeepSpeed on the network of ``model``."""
