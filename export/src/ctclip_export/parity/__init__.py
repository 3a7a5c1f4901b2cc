"""Proof that a graph says what the reference says, before it may be served."""
