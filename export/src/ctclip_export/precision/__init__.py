"""What a release computes in: typed twins, int8, and which part does not bear it."""
