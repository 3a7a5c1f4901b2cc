"""A demo without gated weights: a checkpoint in upstream layout, exported, judged and served."""
