"""Text <-> embedding: the `Codec` protocol, its implementations and the special concepts."""

from lexalcm.codec.base import Codec
from lexalcm.codec.registry import fit_codec, load_codec
from lexalcm.codec.special import SPECIAL_CONCEPTS, encode_special

__all__ = ["SPECIAL_CONCEPTS", "Codec", "encode_special", "fit_codec", "load_codec"]
