"""What Triton is pointed at: configs, the small Python models, provenance, placing it all."""
