"""Check the codec sonar-hf against numbers that sonar-space computed.

    python -m tools.check_sonar tests/data/reference_sonar

The folder holds a text encoder and decoder in the published layout, a SentencePiece model, `expected.json` (sizes,
languages, sentences, token ids, decoded text) and `expected.safetensors` (embeddings, logits). Compared are token ids
in both forms, sentence embeddings, teacher-forced logits and greedy text, which must be equal, and the text of
larger beams, which must be equal or at least as probable under the model. The last line is one JSON object; the exit
code is 1 when a check fails and 2 when the folder cannot be read.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lexalcm.codec.options import CodecOptions, DecodingOptions
from lexalcm.codec.sonar.hf import SonarHfCodec
from lexalcm.errors import LexaError, UserError

EMBEDDING_TOLERANCE = 1e-5
LOGITS_TOLERANCE = 1e-4
LOG_PROBABILITY_TOLERANCE = 1e-4
POSITIONS = 24
"""Of decoded text, the two prompt tokens and the end of the sentence counted."""


@dataclass(frozen=True)
class Check:
    """One compared quantity: its largest absolute error, or the share of unequal entries where they must be equal."""

    name: str
    error: float
    tolerance: float = 0.0
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Reference:
    """What sonar-space computed."""

    expected: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]

    @property
    def sentences(self) -> list[str]:
        """The sentences that all of it is about."""
        return self.expected["sentences"]

    def embeddings(self) -> np.ndarray:
        """The embeddings that were decoded: of the sentences in the first language."""
        return self.tensors[f"embeddings_{self.expected['langs'][0]}"]


def check_sonar(folder: Path) -> Iterator[Check]:
    """Run all checks on a reference folder.

    Raises:
        UserError: a file is missing or damaged, or its weights are not SONAR's.
    """
    reference = _read(folder)
    config = reference.expected["config"]
    codec = SonarHfCodec.create(
        (),
        weights=str(folder),
        decoder=str(folder),
        tokenizer=str(folder),
        languages=reference.expected["langs"],
        heads=config["heads"],
        max_seq_len=config["max_seq_len"],
    )
    codec.configure(CodecOptions(device="cpu", dtype="fp32"))
    yield from check_tokens(codec, reference)
    yield from check_embeddings(codec, reference)
    yield from check_logits(codec, reference)
    yield from check_texts(codec, reference)


def check_tokens(codec: SonarHfCodec, reference: Reference) -> Iterator[Check]:
    """Token ids of every sentence, in source and target form."""
    for name, expected in reference.expected["tokens"].items():
        lang, form = name.rsplit("_", 1)
        if form == "source":
            found = [tokens.tolist() for tokens in codec.tokenizer.encode(reference.sentences, lang)]
        else:
            found = [codec.tokenizer.encode_target(sentence, lang) for sentence in reference.sentences]
        yield _equal(f"tokens, {name}", found, expected)


def check_embeddings(codec: SonarHfCodec, reference: Reference) -> Iterator[Check]:
    """Sentence embeddings, computed as one call and one by one."""
    for name, expected in reference.tensors.items():
        if not name.startswith("embeddings_"):
            continue
        lang = name.removeprefix("embeddings_")
        together = codec.encode(reference.sentences, lang)
        alone = np.concatenate([codec.encode([sentence], lang) for sentence in reference.sentences])
        yield _close(name.replace("_", ", ", 1), together, expected, EMBEDDING_TOLERANCE)
        yield _close(name.replace("_", ", one by one, ", 1), alone, expected, EMBEDDING_TOLERANCE)


def check_logits(codec: SonarHfCodec, reference: Reference) -> Iterator[Check]:
    """The decoder's output for given tokens, with the embedding of the sentence that they are of."""
    for row, (tokens, expected) in enumerate(
        zip(reference.tensors["logits_input"].tolist(), reference.tensors["logits"], strict=True)
    ):
        embedding = reference.embeddings()[_sentence_of(tokens, reference, row)]
        yield _close(f"logits, {row}", codec.decoder.logits(embedding, tokens).numpy(), expected, LOGITS_TOLERANCE)


def check_texts(codec: SonarHfCodec, reference: Reference) -> Iterator[Check]:
    """Decoded text of every language and beam."""
    embeddings = reference.embeddings()
    for name, expected in reference.expected["decoded"].items():
        match = re.fullmatch(r"(.+)_beam(\d+)", name)
        if match is None:
            raise UserError(f"expected.json: {name!r} under decoded is not LANGUAGE_beamN")
        lang, beam = match[1], int(match[2])
        options = DecodingOptions(beam=beam, max_tokens=POSITIONS)
        found = codec.decoder.search(embeddings, lang, options)
        texts = [codec.tokenizer.decode(tokens) for tokens in found]
        if beam == 1:
            yield _equal(f"greedy text, {lang}", texts, expected)
            continue
        worse = [
            codec.decoder.log_probability(embedding, codec.tokenizer.encode_target(text, lang))
            - codec.decoder.log_probability(embedding, tokens)
            for embedding, tokens, ours, text in zip(embeddings, found, texts, expected, strict=True)
            if ours != text
        ]
        note = f"{len(worse)} of {len(expected)} texts differ" if worse else "all texts are equal"
        error = float(np.max([0.0, *worse]))  # NaN, if one is, which max() would pass over
        yield Check(f"text of beam {beam}, {lang}", error, LOG_PROBABILITY_TOLERANCE, note)


def _sentence_of(tokens: list[int], reference: Reference, row: int) -> int:
    """Which sentence's target form starts so; in doubt the one of the same row."""
    for name, targets in reference.expected["tokens"].items():
        if name.endswith("_target") and tokens in [target[: len(tokens)] for target in targets]:
            return [target[: len(tokens)] for target in targets].index(tokens)
    return row


def _equal(name: str, found: Sequence[Any], expected: Sequence[Any]) -> Check:
    if len(found) != len(expected):
        return Check(name, float("nan"), note=f"{len(found)} entries, expected {len(expected)}")
    unequal = [place for place, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
    note = f"entry {unequal[0]}: {found[unequal[0]]!r}, expected {expected[unequal[0]]!r}" if unequal else ""
    return Check(name, len(unequal) / max(1, len(expected)), note=note)


def _close(name: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> Check:
    if found.shape != expected.shape:
        return Check(name, float("nan"), tolerance, f"shape {found.shape}, expected {expected.shape}")
    return Check(name, float(np.abs(found - expected).max()), tolerance)


def _read(folder: Path) -> Reference:
    try:
        expected = json.loads((folder / "expected.json").read_bytes())
        return Reference(expected, load_file(folder / "expected.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no readable expected.json and expected.safetensors: give a folder with reference data"
        ) from error


def main() -> int:
    """Print every check and a JSON summary; the exit code."""
    parser = argparse.ArgumentParser(description="Check the codec sonar-hf against sonar-space's numbers.")
    parser.add_argument("folder", type=Path, help="e.g. tests/data/reference_sonar")
    folder = parser.parse_args().folder
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LEXALCM_CACHE"] = cache  # converted weights of a check are of no later use
        try:
            for check in check_sonar(folder):
                checks.append(check)
                note = f"  ({check.note})" if check.note else ""
                print(f"{'ok  ' if check.passed else 'FAIL'} {check.error:9.2e} of {check.tolerance:.0e}  ", end="")
                print(f"{check.name}{note}")
        except LexaError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        except KeyError as error:
            print(f"{folder} holds no {error}: give a folder with reference data", file=sys.stderr)
            return UserError.exit_code
    failed = [check.name for check in checks if not check.passed]
    errors = {check.name: check.error if np.isfinite(check.error) else None for check in checks}
    print(json.dumps({"checks": len(checks), "failed": failed, "errors": errors}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
