"""How good predictions are, against labels."""
