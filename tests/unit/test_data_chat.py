import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONFIGS

from lexalcm.codec.special import SPECIAL_CONCEPTS
from lexalcm.data.batches.batch import Batch
from lexalcm.data.batches.loader import TrainingBatches
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.build.embed import embed, make_job
from lexalcm.data.build.one_process import BuildResult, build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.build.tasks import Task
from lexalcm.data.convert.convert import convert
from lexalcm.data.convert.settings import ConvertSettings
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.normalizer.sentence_concepts import sentence_concepts
from lexalcm.data.settings import DataSettings
from lexalcm.data.sources.corpus import find_sources, read_documents
from lexalcm.errors import DataError, UserError
from lexalcm.model.create import create_model
from lexalcm.objective import Loss, create_objective
from lexalcm.text.chat import chat_document, read_turns
from lexalcm.verify.dataset.check import verify_dataset

SYSTEM, USER, ASSISTANT, TOOL = (SPECIAL_CONCEPTS[name] for name in ("system", "user", "assistant", "tool"))
END = SPECIAL_CONCEPTS["end_of_text"]

CHATS: list[dict[str, Any]] = [
    {
        "id": "openai",
        "kind": "weather",
        "messages": [
            {"role": "system", "content": "Be brief. Be kind."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Will it rain?"}, {"type": "text", "text": "Or not?"}],
            },
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]},
            {"role": "tool", "content": "Rain at noon."},
            {"role": "assistant", "content": "Yes. Take a coat."},
            {"role": "user", "content": "Thanks!"},
        ],
    },
    {
        "id": "sharegpt",
        "lang": "jpn_Jpan",
        "conversations": [
            {"from": "human", "value": "元気ですか。"},
            {"from": "gpt", "value": "はい。元気です。"},
            {"from": "human", "value": "よかった。"},
            {"from": "gpt", "value": "ありがとう。"},
        ],
    },
    {"id": "completion", "prompt": "One and one?", "completion": "Two."},
    {"id": "alpaca", "instruction": "Name the colour.", "input": "Snow.", "output": "White.", "system": "Short."},
    {"id": "nobody", "messages": [{"role": "user", "content": "Hello?"}]},
]

LEARNED = {
    "openai": ["Yes.", "Take a coat.", USER],
    "sharegpt": ["はい。", "元気です。", USER, "ありがとう。", END],
    "completion": ["Two.", END],
    "alpaca": ["White.", END],
}
"""What the assistant says, and what ends each turn, by hand."""


def write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return file


@pytest.fixture
def built(tmp_path: Path, hash_codec: type) -> BuildResult:
    settings = BuildSettings(codec="hash", validation=0, dtype="float32")
    return build_from_paths([write(tmp_path / "chats.jsonl", CHATS)], tmp_path / "chats", settings, chat=True)


def batches(dataset: Dataset, **options: Any) -> list[Batch]:
    given = DataSettings(path=str(dataset.path), **{"row_length": 32, "micro_batch": 1, **options})
    planned = TrainingBatches(Mixture.open(given), given, seed=0)
    read = list(planned.iterate(0, planned.steps_per_epoch))
    for number, batch in enumerate(read):
        assert planned.targets_in_step(number) == int(batch.targets.sum())
    return read


def learned(read: list[Batch], hash_codec: type) -> list[str]:
    """The sentences that targets stand for, sorted."""
    known = {sentence for sentences in LEARNED.values() for sentence in sentences}
    known |= {SYSTEM, ASSISTANT, TOOL, "Be brief.", "Thanks!", "よかった。"}
    vectors = {hash_codec.vector(sentence).tobytes(): sentence for sentence in known}
    return sorted(vectors[vector.numpy().tobytes()] for batch in read for vector in batch.embeddings[batch.targets])


def test_turns_are_a_role_and_its_sentences(built: BuildResult) -> None:
    split = built.dataset.split()
    openai, sharegpt, completion, alpaca = (split.document(i) for i in range(4))
    assert openai["sentences"] == [
        *(SYSTEM, "Be brief.", "Be kind.", USER, "Will it rain?", "Or not?", TOOL, "Rain at noon."),
        *(ASSISTANT, "Yes.", "Take a coat.", USER, "Thanks!"),
    ]
    assert openai["turns"] == [["system", 0], ["user", 3], ["tool", 6], ["assistant", 8], ["user", 11]]
    assert openai["targets"] == [[9, 12]]  # with the role that ends the answer
    assert openai["metadata"] == {"kind": "weather"}
    assert sharegpt["targets"] == [[3, 6], [8, 9]]
    assert completion["sentences"] == [USER, "One and one?", ASSISTANT, "Two."]
    assert alpaca["sentences"] == [SYSTEM, "Short.", USER, "Name the colour.", "Snow.", ASSISTANT, "White."]
    assert built.notes() == ["left out: 1 conversations without an assistant turn", *built.notes()[1:]]


def test_roles_are_the_special_concepts_whatever_the_language(built: BuildResult, hash_codec: type) -> None:
    special = built.dataset.special_concepts()
    split = built.dataset.split()
    for i in range(len(split)):
        document, vectors = split.document(i), split.embeddings(i)
        assert len(vectors) == len(document["sentences"])
        for role, start in document["turns"]:
            np.testing.assert_array_equal(vectors[start], special[role])
        said = set(range(len(vectors))) - {start for _, start in document["turns"]}
        for place in said:
            np.testing.assert_array_equal(vectors[place], hash_codec.vector(document["sentences"][place]))
    fitted = [sentence for _, sentences in hash_codec.last_fit for sentence in sentences]
    assert "Be brief." in fitted
    assert USER not in fitted


def test_only_what_the_assistant_says_is_a_target(built: BuildResult, hash_codec: type) -> None:
    everything = sorted(sentence for sentences in LEARNED.values() for sentence in sentences)
    assert learned(batches(built.dataset), hash_codec) == everything
    without_end = sorted(sentence for sentence in everything if sentence != END)
    assert learned(batches(built.dataset, end_of_text=False), hash_codec) == without_end


@pytest.mark.parametrize("row_length", [2, 3, 5, 8])
def test_a_cut_conversation_keeps_its_targets(built: BuildResult, hash_codec: type, row_length: int) -> None:
    read = batches(built.dataset, row_length=row_length)
    assert learned(read, hash_codec) == sorted(sentence for sentences in LEARNED.values() for sentence in sentences)
    assert all(batch.targets.any() for batch in read)


def test_all_concepts_can_be_learned_on_request(built: BuildResult) -> None:
    sets = [{"path": str(built.dataset.path), "pairs": False}]
    read = batches(built.dataset, sets=sets)
    concepts = int(built.dataset.split().lengths.sum()) + 4  # end of text
    assert sum(int(batch.targets.sum()) for batch in read) == concepts - 4  # all but the first of each


def test_chats_and_text_train_together(built: BuildResult, tmp_path: Path, hash_codec: type) -> None:
    text = write(tmp_path / "text.jsonl", [{"text": "Be brief. よかった。 Thanks! Yes."}])
    plain = build_from_paths([text], tmp_path / "plain", BuildSettings(codec="hash", validation=0, dtype="float32"))
    sentences = plain.dataset.split().document(0)["sentences"]
    sets = [{"path": str(plain.dataset.path)}, {"path": str(built.dataset.path), "prefix": ["start_of_text"]}]
    read = batches(built.dataset, sets=sets, row_length=64)
    expected = [*sentences[1:], END, *(sentence for sentences in LEARNED.values() for sentence in sentences)]
    assert learned(read, hash_codec) == sorted(expected)


@pytest.mark.parametrize("architecture", ["base", "two-tower"])
def test_loss_and_gradients_are_those_of_the_assistants_concepts_alone(built: BuildResult, architecture: str) -> None:
    model = create_model(CONFIGS[architecture].model_copy(update={"dim": 8}), seed=0).train()
    [batch] = batches(built.dataset, row_length=64)
    inputs = batch.to("cpu").tensors()

    def loss(targets: torch.Tensor) -> Loss:
        torch.manual_seed(0)
        return create_objective(model)(**{**inputs, "targets": targets})

    whole = loss((inputs["documents"] >= 0) & (inputs["positions"] > 0))
    answers = loss(inputs["targets"])
    assert int(answers.count) == sum(len(sentences) for sentences in LEARNED.values())
    torch.testing.assert_close(answers.sum.detach(), whole.per_target[inputs["targets"]].sum())
    others = loss(~inputs["targets"] & (inputs["documents"] >= 0) & (inputs["positions"] > 0))
    weights = list(model.parameters())
    of_whole, of_answers, of_others = (
        torch.autograd.grad(part.sum, weights, allow_unused=True) for part in (whole, answers, others)
    )
    for whole_one, answer, other in zip(of_whole, of_answers, of_others, strict=True):
        if whole_one is not None:
            torch.testing.assert_close(answer, whole_one - other, rtol=1e-4, atol=1e-4)


def test_many_workers_make_the_same_data_set(built: BuildResult, tmp_path: Path) -> None:
    records = [chat | {"id": f"{chat['id']}-{number}"} for number in range(20) for chat in CHATS]
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2):
        write(folder / f"{number}.jsonl", records[number::2])
    settings = BuildSettings(codec="hash", shard_size=16384)
    once = build_from_paths([folder], tmp_path / "once", settings, chat=True)
    assert len(once.dataset.manifest.splits["train"].shards) > 2
    job = make_job([folder], tmp_path / "out", settings, chat=True)
    embed(job, Task(1, 2))
    shard = next((tmp_path / "out").glob("train-*.tar"))
    (tmp_path / "out" / "unfinished" / "shards" / f"{shard.name}.json").unlink()  # killed before it was noted
    embed(job, Task(0, 2))
    embed(job, Task(0, 1))
    for file in sorted(once.dataset.path.rglob("*")):
        if file.is_file():
            assert (tmp_path / "out" / file.relative_to(once.dataset.path)).read_bytes() == file.read_bytes(), file.name
    with pytest.raises(UserError, match="another data set"):
        embed(make_job([folder], tmp_path / "out", settings), Task())


def test_roles_have_no_say_in_the_normalizer(tmp_path: Path, hash_codec: type) -> None:
    """Turns of one sentence: half of all concepts are two vectors, and quartiles over all would have no spread."""
    chats = [{"prompt": f"Is {i} even?", "completion": f"Is {i + 1} odd?"} for i in range(40)]
    settings = BuildSettings(codec="hash", validation=0, dtype="float32")
    built = build_from_paths([write(tmp_path / "short.jsonl", chats)], tmp_path / "short", settings, chat=True)
    said = np.stack([hash_codec.vector(text) for chat in chats for text in chat.values()])
    low, middle, high = np.quantile(said, [0.25, 0.5, 0.75], axis=0, method="linear")
    stats = built.dataset.normalizer()
    np.testing.assert_allclose(stats["center"], middle, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["scale"], (high - low) / 1.3489795, rtol=1e-5)
    sentences = sentence_concepts(built.dataset, "train")
    assert sentences.lengths.tolist() == [2] * 40


def test_a_data_set_of_chats_is_verified_and_converted_with_its_turns(built: BuildResult, tmp_path: Path) -> None:
    path = built.dataset.path
    assert verify_dataset(path).findings == []
    result = convert([path], tmp_path / "other", ConvertSettings(dtype="float16"))
    assert result.dataset is not None
    for column in ("targets", "turns"):
        before, after = (dataset.annotations("train", column) for dataset in (built.dataset, result.dataset))
        assert before is not None
        assert after is not None
        assert before.lists() == after.lists()
    index = path / "train.index.npz"
    with np.load(index) as arrays:
        damaged = dict(arrays)
    damaged["targets"] = damaged["targets"] - 1
    np.savez(index, **damaged)
    found = [finding.what for finding in verify_dataset(path).findings]
    assert found == ["its targets are others than the index says"] * 4


def test_other_data_sets_have_no_annotations(tmp_path: Path, hash_codec: type) -> None:
    text = write(tmp_path / "text.jsonl", [{"text": "One here. Two here."}, {"text": "And three. And four."}])
    built = build_from_paths([text], tmp_path / "text", BuildSettings(codec="hash", validation=0))
    with np.load(built.dataset.path / "train.index.npz") as arrays:
        assert sorted(arrays.files) == ["crc32", "lang", "languages", "n", "offset", "shard"]
    assert built.dataset.annotations("train", "targets") is None
    assert "chat" not in built.dataset.manifest.build["source"]


def test_parquet_and_lists_of_messages(tmp_path: Path, hash_codec: type) -> None:
    messages = [[{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."}]]
    pa.parquet.write_table(pa.table({"messages": messages}), tmp_path / "chats.parquet")
    built = build_from_paths(
        [tmp_path / "chats.parquet"], tmp_path / "out", BuildSettings(codec="hash", validation=0), chat=True
    )
    assert built.dataset.split().document(0)["sentences"] == [USER, "Well?", ASSISTANT, "Well."]
    turns, _ = read_turns({"prompt": messages[0][:1], "completion": messages[0][1:]}, "")
    assert [(turn.role, turn.text) for turn in turns] == [("user", "Well?"), ("assistant", "Well.")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "Plain."}, "no conversation in a known layout (messages; conversations; prompt and completion; "),
        ({"messages": "Hello"}, "field 'messages' is not a list of messages"),
        ({"messages": [{"content": "Hello"}]}, "message 1: it has no role"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "message 1: unknown role 'narrator': known are system"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 1: field 'content' holds int, not text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "message 1: a content part of the type 'image_url' cannot be read, only text",
        ),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "message 1: unknown role 'alien'"),
        ({"prompt": 1, "completion": "x"}, "field 'prompt' holds int, not text"),
    ],
)
def test_what_is_no_conversation_is_refused_with_file_and_line(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "chats.jsonl", [CHATS[2], record])
    with pytest.raises(DataError) as error:
        build_from_paths([file], tmp_path / "out", chat=True)
    assert str(error.value).startswith(f"{file}:2: {message}")
    assert "\n" not in str(error.value)


def test_plain_text_is_no_conversation(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hello.")
    with pytest.raises(
        DataError, match=r"a\.txt is plain text, not a conversation: --chat reads \.jsonl and \.parquet"
    ):
        build_from_paths([tmp_path / "a.txt"], tmp_path / "out", chat=True)


def test_the_sentences_of_roles_can_be_others(tmp_path: Path, hash_codec: type) -> None:
    settings = BuildSettings(codec="hash", validation=0, dtype="float32", special={"user": "Human:"})
    file = write(tmp_path / "chats.jsonl", CHATS[2:3])
    dataset = build_from_paths([file], tmp_path / "out", settings, chat=True).dataset
    assert dataset.split().document(0)["sentences"][0] == "Human:"
    np.testing.assert_array_equal(dataset.split().embeddings(0)[0], hash_codec.vector("Human:"))


NOTHING = st.sampled_from([None, float("nan"), "", " ", [], {}])
"""Values that say nothing."""


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "from", "value", "weight"), NOTHING)))
def test_what_says_nothing_in_a_message_is_not_there(rest: dict[str, Any]) -> None:
    expected = [("user", "Is it late?"), ("assistant", "It is not.")]
    for role, content, field in (("role", "content", "messages"), ("from", "value", "conversations")):
        said = [{role: "user", content: "Is it late?"}, {role: "assistant", content: "It is not."}]
        turns, _ = read_turns({field: [rest | message for message in said]}, "")
        assert [(turn.role, turn.text) for turn in turns] == expected
        assert all(turn.learned and not turn.unused for turn in turns)


@settings(deadline=None)
@given(
    st.sampled_from(
        [
            {"messages": [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."}]},
            {"conversations": [{"from": "human", "value": "Well?"}, {"from": "gpt", "value": "Well."}]},
            {"prompt": "Well?", "completion": "Well."},
            {"instruction": "Well?", "output": "Well."},
        ]
    ),
    st.data(),
)
def test_fields_of_other_layouts_that_say_nothing_are_not_there(record: dict[str, Any], data: st.DataObject) -> None:
    names = {"messages", "conversations", "prompt", "completion", "instruction", "input", "output", "history", "system"}
    empty = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(names - set(record)), NOTHING)))
    turns, _ = read_turns(empty | record, "")
    assert [(turn.role, turn.text) for turn in turns] == [("user", "Well?"), ("assistant", "Well.")]


def test_an_answer_that_is_empty_is_no_error(tmp_path: Path, hash_codec: type) -> None:
    records = [{"instruction": "Say nothing.", "input": "", "output": ""}, {"messages": []}, *CHATS[:3]]
    built = build_from_paths(
        [write(tmp_path / "c.jsonl", records)], tmp_path / "out", BuildSettings(codec="hash", validation=0), chat=True
    )
    assert "left out: 2 conversations without an assistant turn" in built.notes()
    assert built.dataset.manifest.splits["train"].documents == 3


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.sampled_from([0, 1, None])), min_size=1))
def test_answers_of_weight_zero_are_context(said: list[tuple[str, int | None]]) -> None:
    messages = [{"role": role, "content": f"{i}.", "weight": weight} for i, (role, weight) in enumerate(said)]
    turns, _ = read_turns({"messages": messages}, "")
    document = chat_document(
        turns, [[turn.text] for turn in turns], {name: name for name in ("user", "assistant", "tool")}
    )
    learned = [i for i, (role, weight) in enumerate(said) if role == "assistant" and weight != 0]
    if not learned:
        assert document is None
        return
    assert document is not None
    assert document["sentences"] == [one for i, (role, _) in enumerate(said) for one in (role, f"{i}.")]
    assert document["turns"] == [[role, 2 * i] for i, (role, _) in enumerate(said)]
    ends = {i: 2 * i + 2 + (i + 1 < len(said)) for i in learned}  # with the role behind it, if there is one
    assert document["targets"] == [[2 * i + 1, ends[i]] for i in learned]


def test_a_weight_between_is_refused(tmp_path: Path) -> None:
    for weight in (0.5, 2, "0", [1]):
        messages = [{"role": "assistant", "content": "x", "weight": weight}]
        with pytest.raises(DataError, match=r"message 1: weight .* is neither 0"):
            read_turns({"messages": messages}, "")


def test_a_history_comes_first_in_its_order(tmp_path: Path) -> None:
    record = {"instruction": "And then?", "input": "", "output": "Rain.", "system": "Be brief."}
    record["history"] = [["What now?", "Sun."], ["And later?", "Wind."]]
    turns, fields = read_turns(record, "")
    assert [(turn.role, turn.text) for turn in turns] == [
        ("system", "Be brief."),
        *(("user", "What now?"), ("assistant", "Sun."), ("user", "And later?"), ("assistant", "Wind.")),
        *(("user", "And then?"), ("assistant", "Rain.")),
    ]
    assert fields == {"instruction", "input", "output", "history", "system"}
    record["history"] = [{"role": "user", "content": "What now?"}, {"role": "assistant", "content": "Sun."}]
    assert [turn.text for turn in read_turns(record, "")[0]] == ["Be brief.", "What now?", "Sun.", "And then?", "Rain."]
    with pytest.raises(DataError, match="1: field 'history' is not a list of pairs"):
        read_turns(record | {"history": ["What now?"]}, "1: ")


def test_what_is_not_used_of_conversations_is_said(
    tmp_path: Path, hash_codec: type, caplog: pytest.LogCaptureFixture
) -> None:
    chat = CHATS[0] | {"tools": [{"name": "look"}], "rejected": []}
    chat["messages"] = [
        *chat["messages"],
        {"role": "assistant", "content": "Bye.", "thinking": "Hm.", "name": None, "weight": 0},
    ]
    file = write(tmp_path / "c.jsonl", [chat, *CHATS[1:]])
    build_from_paths([file], tmp_path / "out", BuildSettings(codec="hash", validation=0), chat=True)
    assert caplog.messages == [
        "not read of messages: tool_calls (1), thinking (1)",
        "left out: messages without text (1)",
        "read, not learned: answers of weight 0 (1)",
        "not read of conversations: tools (1)",
    ]


@pytest.mark.parametrize("name", ["chats.json", "chats.jsonl"])
def test_conversations_in_one_array(tmp_path: Path, name: str) -> None:
    records = [{"instruction": f"Name fruit {i}.", "input": "", "output": f"Apple {i}."} for i in range(8)]
    (tmp_path / name).write_text(json.dumps(records, indent=1))
    documents = list(read_documents(find_sources([tmp_path / name], chat=True), chat=True))
    assert [document.id for document in documents] == [f"{name}:{i + 1}" for i in range(8)]
    assert [[turn.text for turn in document.turns or []] for document in documents] == [
        [f"Name fruit {i}.", f"Apple {i}."] for i in range(8)
    ]
    (tmp_path / name).write_text(json.dumps([*records, {"instruction": 3, "output": "x"}], indent=1))
    with pytest.raises(DataError, match=f"{name}: item 9: field 'instruction' holds int, not text"):
        list(read_documents(find_sources([tmp_path / name], chat=True), chat=True))


def test_messages_in_parquet_with_times_and_bad_bytes(tmp_path: Path) -> None:
    at = pa.timestamp("ns")
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("at", at), ("from", pa.string())]))
    said = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well.", "at": 1}]
    pa.parquet.write_table(pa.table({"messages": pa.array([said], kind)}), tmp_path / "a.parquet")
    [document] = read_documents(find_sources([tmp_path], chat=True), chat=True)
    assert [turn.text for turn in document.turns or []] == ["Well?", "Well."]
