"""Linear heads on embeddings."""
