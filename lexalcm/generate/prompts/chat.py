"""Conversations: a prompt of turns, the concepts that stand for roles, and where an answer ends.

A prompt is what `lexalcm.text.chat` makes of a conversation: each turn its role's concept and its sentences, and at the
end the assistant's concept, behind which the model answers. The answer ends where the model predicts what stands behind
answers in the data: a role's concept or end of text.

Shapes: n sentences, R roles, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Self

from lexalcm.codec.base import Codec
from lexalcm.codec.special import SPECIAL_CONCEPTS, SPECIAL_FILE, read_special
from lexalcm.errors import UserError
from lexalcm.generate.prompts.detect_language import detect_language
from lexalcm.generate.prompts.prompt import Prompt, check_languages, check_prompt_length, check_seed
from lexalcm.text.chat import ASSISTANT, ROLES, Turn
from lexalcm.text.segment import segment


@dataclass(frozen=True)
class Roles:
    """The concepts of a model's special concepts that open turns."""

    concepts: Mapping[str, Tensor]
    """By role, float32 [D] each."""
    end_of_text: Tensor | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Those of a model's folder.

        Raises:
            UserError: it lacks some.
        """
        special = read_special(folder) if (folder / SPECIAL_FILE).is_file() else {}
        if missing := [role for role in ROLES if role not in special]:
            raise UserError(
                f"{folder} has no special concept {missing[0]}, so it cannot mark whose turn it is: "
                "make the model for a data set that has, e.g. one of lcm data build --chat"
            )
        end = special.get("end_of_text")
        return cls(
            {role: torch.from_numpy(special[role]) for role in ROLES}, None if end is None else torch.from_numpy(end)
        )

    @property
    def ends(self) -> list[Tensor]:
        """What may stand behind an answer, [D] each."""
        return [*self.concepts.values(), *([] if self.end_of_text is None else [self.end_of_text])]

    def insert(self, sentences_nD: Tensor, heads: Sequence[tuple[int, str]]) -> Tensor:
        """Put roles' concepts among those of sentences: at place p, counted in the result, that of a role."""
        places = {place: self.concepts[role] for place, role in heads}
        concepts = iter(sentences_nD)
        count = len(sentences_nD) + len(places)
        return torch.stack([places[place] if place in places else next(concepts) for place in range(count)])


def chat_prompt(
    turns: Sequence[Turn],
    *,
    lang: str | None = None,
    to: str | None = None,
    seed: int = 0,
    max_sentences: int | None = None,
    codec: Codec | None = None,
) -> Prompt:
    """Make a prompt of a conversation that the assistant shall answer.

    Args:
        turns: in their order; those without a sentence are left out.
        lang: SONAR code of its language; none: seen from the script, see `detect_language`.
        to: of the language to write; none: that of the text.
        seed: of the noise.
        max_sentences: a longer conversation is a mistake.
        codec: must read and write these languages; none: any language will do.

    Raises:
        UserError: no text, a last turn of the assistant, a script that leaves the language open,
            too many sentences, or a seed that no generator takes.
        CodecError: a language that the codec does not have.
    """
    check_seed(seed)
    whole = "\n".join(turn.text for turn in turns)
    lang = lang or detect_language(whole, codec)
    segmented = [(turn.role, found) for turn in turns if (found := segment(turn.text, lang))]
    if not segmented:
        raise UserError("this conversation has no text: give a turn with words")
    if segmented[-1][0] == ASSISTANT:
        raise UserError("the last turn is the assistant's: end with what it should answer")
    sentences: list[str] = []
    heads: list[tuple[int, str]] = []
    for role, of_turn in [*segmented, (ASSISTANT, [])]:
        heads.append((len(sentences), role))
        sentences += [SPECIAL_CONCEPTS[role], *of_turn]
    check_prompt_length(len(sentences), max_sentences, len(whole))
    prompt = Prompt(tuple(sentences), lang, to or lang, seed, heads=tuple(heads), answers=True)
    if codec is not None:
        check_languages(codec, prompt)
    return prompt


def sentences_without_roles(prompt: Prompt) -> list[str]:
    """A prompt's sentences without those that stand for roles."""
    places = {place for place, _ in prompt.heads}
    return [sentence for place, sentence in enumerate(prompt.sentences) if place not in places]
