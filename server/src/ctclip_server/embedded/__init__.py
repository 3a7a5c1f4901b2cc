"""The real Triton of a wheel, started, kept and diagnosed on this machine."""
