import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor

from lexalcm.codec.special import SPECIAL_CONCEPTS
from lexalcm.data.batches.loader import TrainingBatches
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.build.one_process import build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.settings import DataSettings
from lexalcm.errors import UserError
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.prompts.chat import Roles, chat_prompt, sentences_without_roles
from lexalcm.generate.prompts.documents import Defaults, read_input_documents
from lexalcm.generate.prompts.prompt import Prompt
from lexalcm.generate.sessions.chat_session import ChatSession
from lexalcm.generate.stopping import StoppingRules
from lexalcm.generate.text import TextModel
from lexalcm.text.chat import Turn

SYSTEM, USER, ASSISTANT = (SPECIAL_CONCEPTS[name] for name in ("system", "user", "assistant"))
TURNS = [
    Turn("system", "Be brief."),
    Turn("user", "Well? Say it!"),
    Turn("assistant", "No."),
    Turn("tool", "..."),
    Turn("user", "Why?"),
]


class Writer(TextModel):
    """Answers what it is told to; notes every prompt that it gets."""

    def __init__(self, codec: Any, answers: list[list[str]]) -> None:
        self.codec = codec
        self.answers = iter(answers)
        self.folder = Path("runs/chats/model")
        self.prompts: list[Prompt] = []

    @property
    def roles(self) -> Roles:  # type: ignore[override]  # a cached one there
        concepts = {name: torch.from_numpy(self.codec.vector(SPECIAL_CONCEPTS[name])) for name in SPECIAL_CONCEPTS}
        return Roles({role: concepts[role] for role in ("system", "user", "assistant", "tool")}, None)

    def options(self, **changes: Any) -> GenerationOptions:
        return GenerationOptions.for_model({}, **changes)

    def write(self, prompt: Prompt, options: GenerationOptions) -> Any:
        from lexalcm.generate.continuation import WrittenSentence

        self.prompts.append(prompt)
        for text in next(self.answers):
            concept = torch.from_numpy(self.codec.vector(text))
            yield WrittenSentence(text, concept, concept)


def test_a_prompt_is_the_beginning_of_what_was_learned(tmp_path: Path, hash_codec: type) -> None:
    """Sentence for sentence and concept for concept what training reads of the same conversation up to the answer."""
    record = {"messages": [{"role": turn.role, "content": turn.text} for turn in [*TURNS, Turn("assistant", "So.")]]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(record) + "\n")
    settings = BuildSettings(codec="hash", validation=0, dtype="float32")
    dataset = build_from_paths([tmp_path / "chat.jsonl"], tmp_path / "set", settings, chat=True).dataset
    given = DataSettings(path=str(dataset.path), row_length=16, micro_batch=1)
    batch = TrainingBatches(Mixture.open(given), given, seed=0).micro_batch(0)
    prompt = chat_prompt(TURNS)
    assert list(prompt.sentences) == dataset.split().document(0)["sentences"][:-1]
    said = torch.from_numpy(hash_codec().encode(sentences_without_roles(prompt), "eng_Latn"))
    embedded = Roles.read(dataset.path).insert(said, prompt.heads)
    torch.testing.assert_close(embedded, batch.embeddings[0, : len(embedded)], rtol=0, atol=0)
    first_target = len(embedded)  # what the model is asked for next
    assert batch.targets[0, first_target]
    assert not batch.targets[0, first_target - 1]


def test_turns_without_words_are_left_out_and_the_assistant_is_to_speak() -> None:
    prompt = chat_prompt(TURNS)
    assert [role for _, role in prompt.heads] == ["system", "user", "assistant", "user", "assistant"]
    assert prompt.sentences[-2:] == ("Why?", ASSISTANT)
    with pytest.raises(UserError, match="the last turn is the assistant's"):
        chat_prompt(TURNS[:3])
    with pytest.raises(UserError, match="this conversation has no text"):
        chat_prompt([Turn("user", "...")])
    with pytest.raises(UserError, match="max_prompt is 4"):
        chat_prompt(TURNS, max_sentences=4)


def unit(*numbers: float) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(numbers, dtype=torch.float32), dim=0)


@pytest.mark.parametrize(
    ("concept", "reason"),
    [
        (unit(1, 0, 0, 0, 0), "end of turn"),
        (unit(0.05, 1, 0.1, 0, 0), "end of turn"),
        (unit(1, 1, 0, 0, 0.1), "end of turn"),  # half the user, half end of text: a base model's average
        (unit(1, -1, 0, 0, 0), None),  # no average of the two
        (unit(0, 0, 0, 1, 0), None),  # what was asked may be said again
        (unit(0, 0, 1, 1, 1), None),
    ],
)
def test_an_answer_ends_near_what_stands_behind_answers(concept: Tensor, reason: str | None) -> None:
    ends = [unit(1, 0, 0, 0, 0), unit(0, 1, 0, 0, 0)]
    assert StoppingRules(GenerationOptions(), None, [], ends).before(concept) == reason


def test_a_model_without_roles_says_so(tmp_path: Path) -> None:
    save_file({"end_of_text": np.ones(3, np.float32)}, tmp_path / "special_concepts.safetensors")
    with pytest.raises(UserError, match="no special concept system, so it cannot mark whose turn it is"):
        Roles.read(tmp_path)


def test_a_conversation_goes_on(hash_codec: type) -> None:
    writer = Writer(hash_codec(), [["Two.", "I think."], ["Three."], ["Four."]])
    session = ChatSession(writer, {}, system="Be brief.")
    assert [sentence.text for sentence in session.say("One and one?")] == ["Two.", "I think."]
    assert [sentence.text for sentence in session.say("And one? Please.")] == ["Three."]
    first, second = writer.prompts
    assert first.sentences == (SYSTEM, "Be brief.", USER, "One and one?", ASSISTANT)
    behind = ("Two.", "I think.", USER, "And one?", "Please.", ASSISTANT)
    assert second.sentences == first.sentences + behind
    assert second.answers
    expected = np.stack([hash_codec.vector(sentence) for sentence in second.sentences])
    np.testing.assert_array_equal(second.concepts, expected)
    session.command("/reset")
    list(session.say("One and three?"))
    assert writer.prompts[-1].sentences[:3] == (SYSTEM, "Be brief.", USER)


def test_a_saved_conversation_can_be_read_and_answered(hash_codec: type, tmp_path: Path) -> None:
    """With one more message it is the prompt that the session itself goes on with."""
    writer = Writer(hash_codec(), [["Two.", "I think."], [], ["Three."]])
    session = ChatSession(writer, {}, system="Be brief. Be kind.", seed=3)
    for text in ("One and one?", "Well?"):  # to the second of which nothing is answered
        list(session.say(text))
    assert session.command(f"/save {tmp_path / 'chat.json'}").endswith("6 sentences")
    line = (tmp_path / "chat.json").read_bytes()
    saved = json.loads(line)
    assert line.count(b"\n") == 1  # so that it is a line of such a file
    assert saved["messages"] == [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "One and one?"},
        {"role": "assistant", "content": "Two.\nI think."},
        {"role": "user", "content": "Well?"},
    ]
    [document] = read_input_documents([line], "chat.json", Defaults(chat=True))
    assert document.prompt.sentences == writer.prompts[-1].sentences
    assert document.prompt.seed == 3
    session.command(f"/save {tmp_path / 'chat.txt'}")
    assert (tmp_path / "chat.txt").read_text().splitlines()[:4] == [SYSTEM, "Be brief.", "Be kind.", USER]


def test_documents_are_conversations_to_answer() -> None:
    records = [
        {"id": "a", "messages": [{"role": "user", "content": "Well?"}]},
        {"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Well?"}]},
        {"text": "Well?"},
    ]
    lines = [json.dumps(record).encode() for record in records]
    prompts = [one.prompt for one in read_input_documents(lines, "a.jsonl", Defaults(chat=True, system="Be brief."))]
    brief, kind = ((SYSTEM, told, USER, "Well?", ASSISTANT) for told in ("Be brief.", "Be kind."))
    assert [prompt.sentences for prompt in prompts] == [brief, kind, brief]
    others = [
        {"text": "Ignored.", "messages": [{"role": "user", "content": "Well?"}]},
        {"instruction": "Well?"},
        {"instruction": "Well?", "input": "", "output": ""},
        {"prompt": "Well?", "system": "Be brief."},
        {"prompt": [{"role": "user", "content": "Well?"}], "completion": None},
    ]
    lines = [json.dumps(record).encode() for record in others]
    prompts = [one.prompt for one in read_input_documents(lines, "a.jsonl", Defaults(chat=True, system="Be brief."))]
    assert [prompt.sentences for prompt in prompts] == [brief] * 5
    answered = json.dumps({"messages": [{"role": "assistant", "content": "Well!"}]}).encode()
    with pytest.raises(UserError, match=r"a\.jsonl:1: the last turn is the assistant's"):
        list(read_input_documents([answered], "a.jsonl", Defaults(chat=True)))
