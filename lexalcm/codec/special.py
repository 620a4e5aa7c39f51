"""Special concepts: sentences with a meaning for the model, embedded like any other sentence.

The table is the only place that spells them. A data set keeps their embeddings in `special_concepts.safetensors`,
written once when it is built, and so does a model, so that neither training nor generation needs the codec for them.
"""

import numpy as np

from lexalcm.codec.base import Codec

SPECIAL_CONCEPTS = {
    "start_of_text": "Start of text.",
    "end_of_text": "End of text.",
    "pad": "Padding.",
    "system": "System:",
    "user": "User:",
    "assistant": "Assistant:",
    "tool": "Tool:",
}
SPECIAL_LANGUAGE = "eng_Latn"
SPECIAL_FILE = "special_concepts.safetensors"


def encode_special(codec: Codec) -> dict[str, np.ndarray]:
    """Embed every special concept: name -> float32 [dim]."""
    vectors = codec.encode(list(SPECIAL_CONCEPTS.values()), SPECIAL_LANGUAGE)
    return dict(zip(SPECIAL_CONCEPTS, vectors, strict=True))
