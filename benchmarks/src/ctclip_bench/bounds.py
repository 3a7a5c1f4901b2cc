"""What may differ between the reference and what is served."""

COSINE_BOUND = 0.9999
"""Least cosine of the image embeddings, float32 on any runtime."""
PROBABILITY_BOUND = 1e-3
"""Largest difference of a finding's probability, float32 on any runtime."""
