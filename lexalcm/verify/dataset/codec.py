"""Is the codec of a data set the one that made its embeddings? Ask it to embed and to decode some stored sentences."""

import numpy as np

from lexalcm.codec.base import Codec
from lexalcm.codec.registry import CODEC_FOLDER
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.target_spans import turn_starts
from lexalcm.errors import CodecError, DataError, MissingExtraError, UserError
from lexalcm.verify.dataset.report import DataVerification, DecodedSentence

DECODED_SENTENCES = 8

SAME_EMBEDDING = 0.98
"""Cosine above which a sentence embedded anew counts as the stored one: what float16 and other devices leave alike."""


def open_dataset_codec(dataset: Dataset, found: DataVerification) -> Codec | None:
    """Open a data set's codec; None where that cannot be done, which is noted."""
    try:
        codec = dataset.codec()
    except MissingExtraError as error:
        found.warn(CODEC_FOLDER, f"not checked: {error}")
    except CodecError as error:
        if (dataset.path / CODEC_FOLDER).exists():
            found.error(CODEC_FOLDER, str(error))
        else:
            found.warn(CODEC_FOLDER, f"{error} (without it text can be neither encoded nor decoded)")
    else:
        if codec.dim == dataset.dim:
            return codec
        found.error(CODEC_FOLDER, f"its embeddings have {codec.dim} dimensions, the manifest says {dataset.dim}")
    return None


def decode_sample(dataset: Dataset, codec: Codec, found: DataVerification, seed: int) -> None:
    """Give some stored embeddings and their sentences back to the codec."""
    generator = np.random.default_rng(seed)
    try:
        splits = [dataset.split(name) for name, record in dataset.manifest.splits.items() if record.sentences]
    except DataError:  # already reported
        return
    if not splits:
        return
    split = splits[0]
    for i in generator.permutation(np.flatnonzero(split.lengths))[:DECODED_SENTENCES].tolist():
        try:
            document, embeddings = split.document(i), split.embeddings(i)
            candidates = np.setdiff1d(np.arange(document.get("source", 0), len(embeddings)), turn_starts(document))
            number = int(candidates[generator.integers(len(candidates))])
            sentence, stored = document["sentences"][number], embeddings[number].astype(np.float32)
        except (DataError, LookupError, ValueError, TypeError):  # already reported
            continue
        where = f"{split.where(i)}, sentence {number}"
        try:
            anew = codec.encode([sentence], document["lang"])[0].astype(np.float32)
            [decoded] = codec.decode(stored[None], document["lang"])
        except UserError as error:
            found.warn(CODEC_FOLDER, f"no sentence was decoded: {error}")
            return
        except Exception as error:  # noqa: BLE001  a codec may be anybody's
            found.error(CODEC_FOLDER, f"fails at {where}: {type(error).__name__}: {error}")
            return
        cosine = float(stored @ anew / (np.linalg.norm(stored) * np.linalg.norm(anew) or 1))
        found.decoded.append(DecodedSentence(where, sentence, decoded, cosine))
        if not cosine >= SAME_EMBEDDING:
            found.error(where, f"the codec's embedding differs from the stored one (cosine {cosine:.3f})")
