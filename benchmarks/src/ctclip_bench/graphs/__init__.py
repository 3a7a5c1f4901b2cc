"""Each graph alone: in every runtime at hand, beside its peers, against what the machine can do."""
