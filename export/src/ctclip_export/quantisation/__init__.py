"""int8 by post-training quantisation: which products, by which volumes, and the graph itself."""
