"""Sentences that continue prompts: concepts decoded as they come, until each text's own end.

The context of what follows is the model's own concept, as in the published code, or with `reencode` the concept of the
decoded text, which keeps the context among concepts of real sentences. Prompts of a batch are continued together; what
the codec does is done for all of them at once too, language by language.

Shapes: B prompts, K of them still going on, D embedding dimension.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lexalcm.codec.base import Codec
from lexalcm.generate.autoregressive import Concepts, KeepRows
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.prompts.prompt import Prompt
from lexalcm.generate.stopping import StoppingRules, StopReason


@dataclass(frozen=True)
class WrittenSentence:
    """A sentence that the model made; prints as its text."""

    text: str
    concept: Tensor = field(repr=False)  # what the model made, float32 [D], in the codec's space
    context: Tensor = field(repr=False)  # what it reads on from: the same, or with `reencode` the text's own concept

    def __str__(self) -> str:
        return self.text


Round = list[tuple[int, WrittenSentence]]
"""The next sentence of each prompt that goes on, with the prompt's number."""


class Continuations:
    """What continues several prompts, to be iterated once: a round of sentences at a time, made when it is asked for.

    Args:
        codec: of the model.
        options: when to stop, and what becomes the context.
        prompts: B of them.
        embedded: their concepts, [n, D] each.
        concepts: what the model makes of those.
        end_of_text: the codec's concept for it, [D], or None.
        turn_ends: what may stand behind answers, [D] each.

    Attributes:
        stops: for each prompt why its text ended, once it has.
    """

    def __init__(
        self,
        codec: Codec,
        options: GenerationOptions,
        prompts: Sequence[Prompt],
        embedded: Sequence[Tensor],
        concepts: Concepts,
        end_of_text: Tensor | None,
        turn_ends: Sequence[Tensor] = (),
    ) -> None:
        self.prompts = prompts
        self.embedded = embedded
        self.stops: list[StopReason | None] = [None] * len(prompts)
        self._codec = codec
        self._reencode = options.reencode
        self._concepts = concepts
        self._rules = [
            StoppingRules(
                options, end_of_text, [], turn_ends
            )  # an answer may repeat what others, or others before, wrote
            if prompt.answers
            else StoppingRules(options, end_of_text, list(concepts_nD))
            for prompt, concepts_nD in zip(prompts, embedded, strict=True)
        ]
        self._written = [set() if prompt.answers else set(prompt.sentences) for prompt in prompts]

    def __iter__(self) -> Iterator[Round]:
        going = list(range(len(self.prompts)))
        made = next(self._concepts, None)
        while made is not None:
            made = made.cpu()
            self._stop_before(going, made)
            places = [place for place, number in enumerate(going) if self.stops[number] is None]
            if not places:
                return
            numbers, concepts_KD = [going[place] for place in places], made[places]
            texts = self._decode(numbers, concepts_KD)
            contexts_KD = self._embed(numbers, texts) if self._reencode else concepts_KD
            for number, context in zip(numbers, contexts_KD, strict=True):
                self.stops[number] = self._rules[number].after(context)
            yield [
                (number, WrittenSentence(*sentence))
                for number, *sentence in zip(numbers, texts, concepts_KD, contexts_KD, strict=True)
            ]
            still = [k for k, number in enumerate(numbers) if self.stops[number] is None]
            if not still:
                return
            going = [numbers[k] for k in still]
            rows = torch.tensor([places[k] for k in still])
            contexts_KD = contexts_KD[still]
            made = self._concepts.send(contexts_KD if len(rows) == len(made) else KeepRows(rows, contexts_KD))

    def _stop_before(self, going: Sequence[int], concepts_KD: Tensor) -> None:
        for number, concept in zip(going, concepts_KD, strict=True):
            self.stops[number] = self._rules[number].before(concept)

    def _decode(self, numbers: Sequence[int], concepts_KD: Tensor) -> list[str]:
        """Decode together; the few that a text already contains are decoded again, each with what is to be avoided."""
        texts = [""] * len(numbers)
        for lang, places in _groups([self.prompts[number].to for number in numbers]).items():
            embeddings = concepts_KD[places].numpy()
            if len(places) == 1:
                [place] = places
                texts[place] = self._codec.decode(embeddings, lang, avoid=self._written[numbers[place]])[0]
                continue
            for place, text in zip(places, self._codec.decode(embeddings, lang), strict=True):
                written = self._written[numbers[place]]
                if text in written:
                    [text] = self._codec.decode(concepts_KD[place : place + 1].numpy(), lang, avoid=written)
                texts[place] = text
        for number, text in zip(numbers, texts, strict=True):
            self._written[number].add(text)
        return texts

    def _embed(self, numbers: Sequence[int], texts: Sequence[str]) -> Tensor:
        return torch.stack(
            embed(self._codec, [([text], self.prompts[number].to) for number, text in zip(numbers, texts, strict=True)])
        )[:, 0]


class Continuation:
    """The sentences that continue one prompt, to be iterated once; each is made when it is asked for.

    Attributes:
        prompt: what is continued.
    """

    def __init__(self, continuations: Continuations) -> None:
        [self.prompt] = continuations.prompts
        [self.embedded] = continuations.embedded  # the prompt's concepts, [n, D]
        self._continuations = continuations
        self._sentences = (sentence for round_ in continuations for _, sentence in round_)

    @property
    def stop(self) -> StopReason | None:
        """Why the text ended, once it has."""
        return self._continuations.stops[0]

    def __iter__(self) -> Iterator[WrittenSentence]:
        return self._sentences

    def __next__(self) -> WrittenSentence:
        return next(self._sentences)


def embed(codec: Codec, texts: Sequence[tuple[Sequence[str], str]]) -> list[Tensor]:
    """Concepts of the sentences of each (sentences, language), float32 [n, D]; a language's are embedded together."""
    embedded: list[Tensor] = [torch.empty(0)] * len(texts)
    for lang, places in _groups([lang for _, lang in texts]).items():
        sentences = [sentence for place in places for sentence in texts[place][0]]
        concepts = torch.from_numpy(np.asarray(codec.encode(sentences, lang), dtype=np.float32))
        parts = concepts.split([len(texts[place][0]) for place in places])
        for place, part in zip(places, parts, strict=True):
            embedded[place] = part
    return embedded


def _groups(keys: Sequence[str]) -> dict[str, list[int]]:
    """Places of equal keys, in the order of their first ones."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        groups[key].append(place)
    return groups
