"""Several processes that share one stream."""
