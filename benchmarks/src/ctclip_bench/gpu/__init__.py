"""What a person with an NVIDIA GPU runs: `make gpu-check` and `make gpu-bench`."""
