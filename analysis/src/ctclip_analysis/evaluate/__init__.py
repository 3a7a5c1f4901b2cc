"""How good predictions are, against labels."""

BARS = (0.999, 0.99)
"""Least shares of the reference's macro AUROC, the first where none is asked for; `task_parity`
says whose they are. Here, so that --help can name it without NumPy."""
