"""Requests to Triton: procedures without I/O, and the two clients that run them."""
