"""A server under load, and the way from a file to an answer: parity verdict first."""
