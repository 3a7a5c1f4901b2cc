"""What the drop-in backends share; imported inside Triton's Python stub, so it stays light."""
