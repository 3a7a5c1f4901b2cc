"""What a person with an NVIDIA GPU runs: `ctclip bench gpu`, make gpu-check, make gpu-bench."""
