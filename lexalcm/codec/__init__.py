"""Text <-> embedding: the `Codec` protocol, its implementations and the special concepts."""
