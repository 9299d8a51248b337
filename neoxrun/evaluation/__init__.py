"""Standard tasks through lm-eval: the adapter, the data, the cache and the report."""
