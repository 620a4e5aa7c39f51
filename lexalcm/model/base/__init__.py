"""Base LCM: next-concept regression in one causal Transformer."""
