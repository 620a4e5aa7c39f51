"""SONAR's tokens: a SentencePiece model with a pad symbol before its pieces and the languages after them.

    0          <pad>, which the SentencePiece file lacks
    1 ...      its pieces: <unk>, <s>, </s>, then those of text
    n + 1 ...  the languages, in their order, then three control symbols that inference does not use

Source form (what the encoder reads): language, pieces, `</s>`. Target form (what the decoder writes): `</s>`, language,
pieces, `</s>`.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from lexalcm.errors import CodecError, import_extra
from lexalcm.text.languages import nearest_languages

PAD = 0
CONTROL_SYMBOLS = 3


class SonarTokenizer:
    """Text to token ids and back."""

    def __init__(self, model_file: Path, languages: Sequence[str]) -> None:
        """Open a SentencePiece file.

        Args:
            model_file: e.g. `sentencepiece.source.256000.model`.
            languages: SONAR codes in the order of their tokens.

        Raises:
            MissingExtraError: sentencepiece is not installed.
            CodecError: no such file, or not of this kind.
        """
        sentencepiece = import_extra("sentencepiece", "hf", "the codec sonar-hf")
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model_file.read_bytes())
            self.size = self._pieces.vocab_size()
        except OSError as error:
            raise CodecError(f"cannot read the tokenizer {model_file}: {error.strerror or error}") from error
        except RuntimeError as error:
            raise CodecError(f"{model_file} is not a SentencePiece model: download it again") from error
        self.model_file = model_file
        self.languages = tuple(languages)
        self.unk = self._pieces.unk_id() + 1
        self.eos = self._pieces.eos_id() + 1
        self._language_ids = {lang: self.size + 1 + place for place, lang in enumerate(self.languages)}

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding table for these tokens has."""
        return 1 + self.size + len(self.languages) + CONTROL_SYMBOLS

    def language_id(self, lang: str) -> int:
        """The token of a language.

        Raises:
            CodecError: not one of the tokenizer's, with the nearest that is.
        """
        try:
            return self._language_ids[lang]
        except KeyError:
            near = ", ".join(nearest_languages(lang, self.languages))
            raise CodecError(f"the tokenizer has no token for the language {lang!r}: the nearest are {near}") from None

    def encode(self, sentences: Sequence[str], lang: str) -> list[np.ndarray]:
        """Sentences in source form, int32 [tokens] each."""
        tokens, lengths = self.encode_flat(sentences, lang)
        return np.split(tokens, np.cumsum(lengths)[:-1])

    def encode_flat(self, sentences: Sequence[str], lang: str) -> tuple[np.ndarray, np.ndarray]:
        """Sentences in source form one behind another, int32 [N], and how many tokens each has, int64 [n].

        Other threads run meanwhile: the pieces are found outside the interpreter, and the rest is done by numpy.
        """
        first, last = self.language_id(lang), self.eos
        encoded = self._pieces.encode(list(sentences))
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded)) + 2
        tokens = np.empty(lengths.sum(), np.int32)
        ends = np.cumsum(lengths)
        piece = np.ones(len(tokens), bool)
        piece[ends - lengths] = piece[ends - 1] = False
        tokens[ends - lengths], tokens[ends - 1] = first, last
        tokens[piece] = np.fromiter(chain.from_iterable(encoded), np.int32, len(tokens) - 2 * len(encoded))
        tokens[piece] += 1
        return tokens, lengths

    def prompt(self, lang: str) -> list[int]:
        """What the target form starts with."""
        return [self.eos, self.language_id(lang)]

    def encode_target(self, sentence: str, lang: str) -> list[int]:
        """A sentence in target form."""
        return [*self.prompt(lang), *(piece + 1 for piece in self._pieces.encode(sentence)), self.eos]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens; pad, languages and control symbols are left out."""
        return self._pieces.decode([token - 1 for token in tokens if PAD < token <= self.size])
