"""How well models predict held-out text, beside baselines, with intervals."""
