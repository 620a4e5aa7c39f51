"""One-tower LCM: next-concept diffusion in one Transformer."""
