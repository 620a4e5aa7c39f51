"""Does a codec work on this machine? Sentences in several languages are embedded, decoded and embedded again.

A codec that writes its sentences (SONAR) gives back each in other words at most, close to where it came from; one that
chooses from a bank (lsa) gives back whatever of its own is nearest.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from lexalcm.codec.base import Codec
from lexalcm.errors import CodecError
from lexalcm.generate.prompts.codec_languages import check_codec_language, supports_language
from lexalcm.text.languages import language_name

SAMPLES = {
    "eng_Latn": ("The children went to school in the rain.", "She wrote a long letter to her brother in the city."),
    "fra_Latn": ("Les enfants sont allés à l'école sous la pluie.", "Elle a écrit une longue lettre à son frère."),
    "deu_Latn": ("Die Kinder gingen im Regen zur Schule.", "Sie schrieb ihrem Bruder in der Stadt einen langen Brief."),
    "spa_Latn": ("Los niños fueron a la escuela bajo la lluvia.", "Ella le escribió una larga carta a su hermano."),
    "jpn_Jpan": ("子どもたちは雨の中を学校へ行きました。", "彼女は町にいる兄に長い手紙を書きました。"),
    "zho_Hans": ("孩子们冒雨去上学。", "她给住在城里的哥哥写了一封长信。"),
    "arb_Arab": ("ذهب الأطفال إلى المدرسة تحت المطر.", "كتبت رسالة طويلة إلى أخيها في المدينة."),
    "hin_Deva": ("बच्चे बारिश में स्कूल गए।", "उसने शहर में रहने वाले अपने भाई को एक लंबा पत्र लिखा।"),
    "swh_Latn": ("Watoto walienda shule wakati wa mvua.", "Alimwandikia kaka yake mjini barua ndefu."),
}
"""The same two sentences in each language, about."""


@dataclass(frozen=True)
class RoundTrip:
    """One sentence, encoded and decoded."""

    lang: str
    sentence: str
    decoded: str
    similarity: float
    """Cosine of the sentence's embedding and that of what it was decoded to."""


@dataclass(frozen=True)
class CodecVerification:
    """What `lcm verify codec` found."""

    name: str
    description: str
    dim: int
    fingerprint: str
    round_trips: list[RoundTrip]
    seconds_to_open: float
    """The first sentence, embedded and decoded: weights are loaded by then."""
    encoded_per_second: float
    decoded_per_second: float
    across_languages: float | None
    """Mean cosine of the first sentence and its translations; none with a single language."""
    cut: int = 0
    """Sentences, and what they were decoded to, that were longer than the codec reads."""

    @property
    def problems(self) -> list[str]:
        """What is wrong: sentences that were decoded to nothing, similarities that are not finite."""
        empty = sum(not trip.decoded.strip() for trip in self.round_trips)
        broken = sum(not np.isfinite(trip.similarity) for trip in self.round_trips)
        problems = [f"{empty} sentences were decoded to nothing"] if empty else []
        return problems + ([f"{broken} similarities are not finite"] if broken else [])

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def similarity(self) -> float:
        """Mean over the sentences."""
        return float(np.mean([trip.similarity for trip in self.round_trips]))

    def to_json(self) -> dict[str, Any]:
        """As plain values, with `ok` and the mean similarity."""
        return {"ok": self.ok, "problems": self.problems, "similarity": self.similarity, **asdict(self)}

    def table(self) -> Table:
        """A line for each sentence."""
        table = Table("language", box=box.SIMPLE_HEAD, leading=1)
        table.add_column("sentence and what it was decoded to", overflow="fold")
        table.title, table.title_justify = Text(f"{self.name}: {self.description}"), "left"
        table.add_column("cosine", justify="right")
        for trip in self.round_trips:
            texts = Text(f"{trip.sentence}\n{trip.decoded}")
            table.add_row(Text(f"{language_name(trip.lang)}\n{trip.lang}"), texts, f"{trip.similarity:.3f}")
        return table

    def lines(self) -> str:
        """What holds for all of them."""
        across = "" if self.across_languages is None else f"; cosine of translations {self.across_languages:.3f}"
        return (
            f"{self.dim} dimensions, fingerprint {self.fingerprint[:12]}; mean cosine {self.similarity:.3f}{across}\n"
            f"opened in {self.seconds_to_open:.1f} s; then {self.encoded_per_second:,.1f} sentences/s embedded, "
            f"{self.decoded_per_second:,.1f} decoded (in batches of this size)"
            + (f"\ntruncated: {self.cut} sentences were longer than the codec reads" if self.cut else "")
            + "".join(f"\nproblem: {problem}" for problem in self.problems)
        )


def verify_codec(codec: Codec, name: str, languages: Sequence[str] = ()) -> CodecVerification:
    """Encode and decode sample sentences.

    Args:
        codec: the codec.
        name: what to call it.
        languages: codes; none: those of the samples that the codec knows. A language without samples is tried by
            decoding the English ones into it.

    Raises:
        CodecError: a language it does not know, or a codec that cannot be opened.
    """
    for lang in languages:
        check_codec_language(codec, lang)
    chosen = list(languages) or [lang for lang in SAMPLES if supports_language(codec, lang)]
    if not chosen:
        chosen = sorted(codec.languages or ["eng_Latn"])[:3]
    english = next(lang for lang in ("eng_Latn", *chosen) if codec.languages is None or lang in codec.languages)
    start = time.perf_counter()
    codec.decode(codec.encode(SAMPLES["eng_Latn"][:1], english), _writes(codec, english))
    opened = time.perf_counter() - start
    cut_before = codec.cut
    encoding = decoding = 0.0
    round_trips: list[RoundTrip] = []
    first: list[np.ndarray] = []
    for lang in chosen:
        sentences, source = (SAMPLES[lang], lang) if lang in SAMPLES else (SAMPLES["eng_Latn"], english)
        start = time.perf_counter()
        there = codec.encode(sentences, source)
        encoding += time.perf_counter() - start
        start = time.perf_counter()
        decoded = codec.decode(there, _writes(codec, lang))
        decoding += time.perf_counter() - start
        again = codec.encode(decoded, lang)
        if lang in SAMPLES:
            first.append(there[0])
        round_trips += [
            RoundTrip(lang, sentence, text, _cosine(one, other))
            for sentence, text, one, other in zip(sentences, decoded, there, again, strict=True)
        ]
    return CodecVerification(
        name=name,
        description=codec.description(),
        dim=codec.dim,
        fingerprint=codec.fingerprint,
        round_trips=round_trips,
        seconds_to_open=opened,
        encoded_per_second=len(round_trips) / encoding,
        decoded_per_second=len(round_trips) / decoding,
        cut=codec.cut - cut_before,
        across_languages=float(np.mean([_cosine(first[0], one) for one in first[1:]])) if len(first) > 1 else None,
    )


def _writes(codec: Codec, lang: str) -> str | None:
    """The language to decode into; none: whatever a bank has, which may have no English sentence."""
    return lang if supports_language(codec, lang) else None


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0:
        raise CodecError("the codec returns an embedding of norm zero")
    return float(one @ other) / lengths
