"""Two-tower LCM: next-concept diffusion with a contextualizer and a denoiser."""
