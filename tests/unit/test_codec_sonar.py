"""SONAR on Transformers' modules: what users of the codec rely on, and what they are told when something is wrong."""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils import get_session
from safetensors.torch import load_file, save_file
from sonar_reference import EXPECTED, LANGUAGES, REFERENCE, TENSORS, as_fairseq, hf_codec, state_of

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("sentencepiece", reason="the extra hf is not installed")

from lexalcm.codec.base import CodecRecord, DifferentiableCodec
from lexalcm.codec.options import CodecOptions, DecodingOptions
from lexalcm.codec.registry import fit_codec, load_codec
from lexalcm.codec.sonar import files as sonar_files
from lexalcm.codec.sonar.hf import SonarHfCodec
from lexalcm.codec.sonar.tokenizer import PAD
from lexalcm.errors import CodecError, ConfigError, UserError
from lexalcm.registries import CODECS

SENTENCES = EXPECTED["sentences"]
OPTIONS_HEADS = EXPECTED["config"]["heads"]
EMBEDDINGS = TENSORS["embeddings_eng_Latn"]
TEXT = [f"{SENTENCES[i % 5]} {'So it was. ' * (i % 4)}" for i in range(40)]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEXALCM_CACHE", str(folder))
        patch.setenv("LEXALCM_SONAR_URL", "http://127.0.0.1:9")  # nobody listens there
        patch.delenv("LEXALCM_SONAR", raising=False)
        yield folder


@pytest.fixture(scope="module")
def codec(cache: Path) -> SonarHfCodec:
    return hf_codec()


def configured(**options: Any) -> SonarHfCodec:
    codec = hf_codec()
    codec.configure(CodecOptions(device="cpu", **options))
    return codec


# embedding


def test_batches_and_windows_change_nothing(codec: SonarHfCodec) -> None:
    alone = np.concatenate([codec.encode([sentence], "eng_Latn") for sentence in TEXT])
    for batch in (1, 50, 300, 100_000):
        np.testing.assert_allclose(configured(batch=batch).encode(TEXT, "eng_Latn"), alone, atol=2e-6)
    (found,) = codec.encoder.stream([(TEXT, "eng_Latn")], window=7)
    np.testing.assert_allclose(found, alone, atol=2e-6)


def test_a_stream_gives_what_each_request_gives_alone(codec: SonarHfCodec) -> None:
    """To the last bit, whatever stands before it; also where a request has no sentence."""
    requests: list[tuple[list[str], str]] = [
        ([], LANGUAGES[0]),
        (TEXT * 40, LANGUAGES[0]),
        ([], LANGUAGES[1]),
        ([], LANGUAGES[0]),
        (TEXT[:7], LANGUAGES[1]),
        (TEXT[3:], LANGUAGES[0]),
        ([], LANGUAGES[0]),
    ]
    found = list(codec.encode_stream(iter(requests)))
    for request, embeddings in zip(requests, found, strict=True):
        np.testing.assert_array_equal(embeddings, codec.encode(*request))
    assert [len(embeddings) for embeddings in found] == [0, 1600, 0, 0, 7, 37, 0]
    with pytest.raises(CodecError, match="does not know the language 'fra_Cyrl'"):
        list(codec.encode_stream([(TEXT, LANGUAGES[0]), (TEXT, "fra_Cyrl")]))


def test_the_language_is_part_of_what_is_embedded(codec: SonarHfCodec) -> None:
    english, french = (codec.encode(SENTENCES, lang) for lang in LANGUAGES[:2])
    assert np.abs(english - french).max() > 0.01


def test_no_sentences(codec: SonarHfCodec) -> None:
    assert codec.encode([], "eng_Latn").shape == (0, 64)
    assert codec.decode(np.empty((0, 64)), "eng_Latn") == []


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_near(dtype: str) -> None:
    found = configured(dtype=dtype).encode(SENTENCES, "eng_Latn")
    assert found.dtype == np.float32
    cosines = (found * EMBEDDINGS).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(EMBEDDINGS, axis=1)
    assert cosines.min() > 0.999


def test_a_long_sentence_is_cut_counted_and_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    codec = hf_codec()
    long = " ".join(SENTENCES * 5)
    with caplog.at_level(logging.WARNING):
        found = codec.encode([long, SENTENCES[0], long + " And more."], "eng_Latn")
        codec.encode([long], "eng_Latn")
    assert [record.message.startswith("a sentence has more than the 66 tokens") for record in caplog.records] == [True]
    assert codec.encoder.cut == 3
    np.testing.assert_allclose(found[0], found[2], atol=2e-6)
    np.testing.assert_allclose(found[1], EMBEDDINGS[0], atol=2e-6)


# decoding


def test_greedy_and_beams_are_options() -> None:
    for beam in (1, 5):
        decoding = DecodingOptions(beam=beam, max_tokens=24)
        found = configured(decoding=decoding).decode(EMBEDDINGS, "fra_Latn")
        assert found == EXPECTED["decoded"][f"fra_Latn_beam{beam}"]


def test_batched_decoding_is_the_same_one_by_one() -> None:
    codec = configured(decoding=DecodingOptions(max_tokens=16))
    together = codec.decode(EMBEDDINGS, "eng_Latn")
    assert together == [codec.decode(embedding, "eng_Latn")[0] for embedding in EMBEDDINGS]


def test_length_and_repetition_can_be_bounded() -> None:
    codec = configured(decoding=DecodingOptions(beam=1, max_tokens=10))
    plain = codec.decoder.search(EMBEDDINGS, "eng_Latn", codec.run_options.decoding)
    assert max(len(tokens) for tokens in plain) == 10
    penalized = configured(decoding=DecodingOptions(beam=1, max_tokens=10, repetition_penalty=100.0))
    varied = penalized.decoder.search(EMBEDDINGS, "eng_Latn", penalized.run_options.decoding)
    assert np.mean([len(set(tokens)) for tokens in varied]) > np.mean([len(set(tokens)) for tokens in plain])


def test_decoding_without_a_language_is_into_english(codec: SonarHfCodec) -> None:
    codec.configure(CodecOptions(device="cpu", decoding=DecodingOptions(beam=1, max_tokens=24)))
    assert codec.decode(EMBEDDINGS) == EXPECTED["decoded"]["eng_Latn_beam1"]


# identity


def test_it_notes_itself_as_sonar(codec: SonarHfCodec, tmp_path: Path) -> None:
    record = codec.record()
    assert (record.name, record.dim) == ("sonar", 64)
    again = load_codec(record, tmp_path)
    assert isinstance(again, SonarHfCodec)
    assert again.record() == record
    np.testing.assert_array_equal(again.encode(SENTENCES, "eng_Latn"), codec.encode(SENTENCES, "eng_Latn"))
    codec.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_same_weights_in_another_layout_are_the_same_codec(codec: SonarHfCodec, tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "old")
    torch.save({"state_dict": as_fairseq(state_of("encoder"), "encoder")}, folder / "encoder.pt")
    assert hf_codec(folder).fingerprint == codec.fingerprint


def other_weights(folder: Path) -> dict[str, Any]:
    state = state_of("encoder")
    state["layer_norm.bias"] = state["layer_norm.bias"] + 0.1
    torch.save({"model": state}, folder / "encoder.pt")
    return {}


def other_heads(folder: Path) -> dict[str, Any]:
    return {"heads": 8}


def other_languages(folder: Path) -> dict[str, Any]:
    return {"languages": [*LANGUAGES[::-1]]}


@pytest.mark.parametrize("change", [other_weights, other_heads, other_languages])
def test_what_changes_embeddings_changes_the_fingerprint(codec: SonarHfCodec, tmp_path: Path, change: Any) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "other")
    other = hf_codec(folder, **change(folder))
    assert other.fingerprint != codec.fingerprint
    record = other.record().model_copy(update={"fingerprint": codec.fingerprint})
    with pytest.raises(CodecError, match=r"fingerprint .* expected .* LEXALCM_SONAR"):
        load_codec(record, tmp_path).encode(SENTENCES, "eng_Latn")


def test_another_codecs_data_is_refused(tmp_path: Path) -> None:
    record = CodecRecord(name="lsa", dim=128, fingerprint="f" * 64)
    with pytest.raises(CodecError, match="made with the codec lsa"):
        load_codec(record, tmp_path, name="sonar-hf")


# files


def test_the_second_start_reads_converted_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path))
    first = hf_codec().encode(SENTENCES, "eng_Latn")
    (kept,) = (tmp_path / "converted").glob("*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(sonar_files, "read_weights", lambda *_: pytest.fail("converted again"))
        np.testing.assert_array_equal(hf_codec().encode(SENTENCES, "eng_Latn"), first)
    kept.write_bytes(kept.read_bytes()[:-100])
    np.testing.assert_array_equal(hf_codec().encode(SENTENCES, "eng_Latn"), first)
    assert load_file(kept).keys()  # mended


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "file"))
    np.testing.assert_allclose(hf_codec().encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)


def publish(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in sonar_files.PUBLISHED.items():
        shutil.copy(REFERENCE / {"tokenizer": "sentencepiece.model"}.get(part, f"{part}.pt"), folder / name)
    return folder


def test_published_files_are_found_in_the_cache_and_by_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path))
    publish(tmp_path / "sonar")
    np.testing.assert_allclose(hf_codec(weights=None).encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)
    shutil.move(tmp_path / "sonar", tmp_path / "mine")
    monkeypatch.setenv("LEXALCM_SONAR", str(tmp_path / "mine"))
    np.testing.assert_allclose(hf_codec(weights=None).encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)
    monkeypatch.setenv("LEXALCM_SONAR", str(tmp_path / "nowhere"))
    with pytest.raises(CodecError, match="of LEXALCM_SONAR does not exist"):
        hf_codec(weights=None).encode(SENTENCES, "eng_Latn")


def test_no_weights_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path))
    with pytest.raises(CodecError) as caught:
        hf_codec(weights=None).encode(SENTENCES, "eng_Latn")
    message = str(caught.value)
    for wanted in (*sonar_files.PUBLISHED.values(), sonar_files.ADDRESS, str(tmp_path / "sonar"), "LEXALCM_SONAR"):
        assert wanted in message
    assert "\n" not in message


def test_a_folder_or_repository_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodecError, match="no SONAR weights in /nowhere"):
        hf_codec(weights="/nowhere").encode(SENTENCES, "eng_Latn")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CodecError, match="hf download some/encoder --local-dir FOLDER"):
        hf_codec(weights="some/encoder").encode(SENTENCES, "eng_Latn")


def test_a_folder_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match=r"holds no SONAR text encoder: it should be called sonar_text_encoder\.pt"):
        hf_codec(tmp_path).encode(SENTENCES, "eng_Latn")


def hub_folder(folder: Path) -> Path:
    """An encoder as `cointegrated/SONAR_200_text_encoder` has it: Transformers' layout, no decoder."""
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in as_fairseq(state_of("encoder"), "encoder").items()}
    save_file(state, folder / "model.safetensors")
    config = {"architectures": ["M2M100Encoder"], "d_model": 64, "encoder_attention_heads": OPTIONS_HEADS}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(REFERENCE / "sentencepiece.model", folder / "sentencepiece.bpe.model")
    return folder


def test_a_hub_repository_in_transformers_layout(
    codec: SonarHfCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads come from its config, the decoder from the published files."""
    folder = hub_folder(tmp_path / "hub")
    asked: list[str] = []

    def snapshot_download(repository: str, **_: Any) -> str:
        asked.append(repository)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setenv("LEXALCM_SONAR", str(publish(tmp_path / "published")))
    from_hub = hf_codec(weights="some/encoder", heads=None)
    np.testing.assert_allclose(from_hub.encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)
    assert set(asked) == {"some/encoder"}
    assert from_hub.fingerprint == codec.fingerprint
    assert from_hub.record().options["weights"] == "some/encoder"
    from_hub.configure(CodecOptions(device="cpu", decoding=DecodingOptions(beam=1, max_tokens=24)))
    assert from_hub.decode(EMBEDDINGS, "eng_Latn") == EXPECTED["decoded"]["eng_Latn_beam1"]


def as_published(folder: Path, *parts: str) -> Path:
    """The published files, or some of them."""
    publish(folder)
    for part, name in sonar_files.PUBLISHED.items():
        if parts and part not in parts:
            (folder / name).unlink()
    return folder


GREEDY = CodecOptions(device="cpu", decoding=DecodingOptions(beam=1, max_tokens=24))


def decodes_as_published(codec: SonarHfCodec) -> bool:
    codec.configure(GREEDY)
    return codec.decode(EMBEDDINGS, "eng_Latn") == EXPECTED["decoded"]["eng_Latn_beam1"]


def test_an_encoders_file_has_its_decoder_and_tokenizer_beside_it(tmp_path: Path) -> None:
    folder = as_published(tmp_path / "full")
    codec = hf_codec(weights=str(folder / "sonar_text_encoder.pt"))
    np.testing.assert_allclose(codec.encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)
    assert decodes_as_published(codec)


def test_an_encoders_file_alone_belongs_to_the_published_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "alone" / "mine.pt"
    file.parent.mkdir()
    shutil.copy(REFERENCE / "encoder.pt", file)
    monkeypatch.setenv("LEXALCM_SONAR", str(as_published(tmp_path / "published", "decoder", "tokenizer")))
    codec = hf_codec(weights=str(file))
    np.testing.assert_allclose(codec.encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)
    assert decodes_as_published(codec)


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_both_halves_in_one_file(tmp_path: Path, suffix: str) -> None:
    """Transformers' whole model under another name than `model.safetensors`."""
    state: dict[str, torch.Tensor] = {}
    for half in ("encoder", "decoder"):
        state |= {f"model.{half}.{name}": part.clone() for name, part in as_fairseq(state_of(half), half).items()}
    del state["model.decoder.output_projection.weight"]
    file = tmp_path / f"whole.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    shutil.copy(REFERENCE / "sentencepiece.model", tmp_path)
    codec = hf_codec(weights=str(file))
    np.testing.assert_allclose(codec.encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)
    assert decodes_as_published(codec)


# weights that are elsewhere than when the data was made


def test_weights_that_were_moved_are_found_by_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = hf_codec(as_published(tmp_path / "then")).record()
    (tmp_path / "then").rename(tmp_path / "now")
    moved = load_codec(record, tmp_path, options=GREEDY)
    message = r"there are no SONAR weights in .*then: .*, or set LEXALCM_SONAR to the folder where the weights are"
    with pytest.raises(CodecError, match=message):
        moved.encode(SENTENCES, "eng_Latn")
    with pytest.raises(CodecError, match=message):
        moved.decode(EMBEDDINGS, "eng_Latn")
    monkeypatch.setenv("LEXALCM_SONAR", str(tmp_path / "now"))
    np.testing.assert_allclose(moved.encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)
    assert decodes_as_published(moved)
    assert moved.record() == record


def test_weights_that_were_moved_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = hf_codec(as_published(tmp_path / "then")).record()
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "then").rename(tmp_path / "cache" / "sonar")
    assert decodes_as_published(load_codec(record, tmp_path))


def test_other_weights_in_the_old_place_give_way_to_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = hf_codec(as_published(tmp_path / "then")).record()
    state = state_of("encoder")
    state["layer_norm.bias"] = state["layer_norm.bias"] + 0.1
    torch.save({"model": state}, tmp_path / "then" / "sonar_text_encoder.pt")
    monkeypatch.setenv("LEXALCM_SONAR", str(as_published(tmp_path / "now")))
    np.testing.assert_allclose(load_codec(record, tmp_path).encode(SENTENCES, "eng_Latn"), EMBEDDINGS, atol=1e-5)
    torch.save({"model": state}, tmp_path / "now" / "sonar_text_encoder.pt")
    with pytest.raises(CodecError, match=r"fingerprint .* expected .* LEXALCM_SONAR"):
        load_codec(record, tmp_path).encode(SENTENCES, "eng_Latn")


def test_a_new_codec_takes_no_other_weights_than_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXALCM_SONAR", str(as_published(tmp_path / "published")))
    with pytest.raises(CodecError, match=r"no SONAR weights in /nowhere: give a folder, a file or a hub repository$"):
        hf_codec(weights="/nowhere").encode(SENTENCES, "eng_Latn")


# decoding alone


def test_decoding_needs_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its three gigabytes are not downloaded to count heads; nobody answers at the published address here."""
    monkeypatch.setenv("LEXALCM_SONAR", str(as_published(tmp_path, "decoder", "tokenizer")))
    assert decodes_as_published(hf_codec(weights=None))
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention_heads": OPTIONS_HEADS}))
    with_config = hf_codec(weights=None, heads=None)
    shutil.copy(REFERENCE / "encoder.pt", tmp_path)
    assert decodes_as_published(with_config)
    assert "_encoder_weights" not in with_config.__dict__
    with pytest.raises(CodecError, match="decodes 64 dimensions, not 128"):
        hf_codec(weights=None).decode(np.zeros((2, 128)), "eng_Latn")


def test_heads_of_a_repository_are_read_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def snapshot_download(_repository: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        folder = tmp_path / "-".join(allow_patterns).replace("*", "all")
        return str(folder if folder.is_dir() else hub_folder(folder))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert sonar_files.encoder_heads("some/encoder") == OPTIONS_HEADS
    assert asked == [["config.json"]]


def test_decoders_of_other_dimensions_than_the_encoder(codec: SonarHfCodec, tmp_path: Path) -> None:
    record = codec.record().model_copy(update={"dim": 32})
    with pytest.raises(CodecError, match="the SONAR decoder is for 64 dimensions, the encoder makes 32"):
        load_codec(record, tmp_path).decode(np.zeros((1, 32)), "eng_Latn")


@pytest.mark.parametrize(("batch", "beam", "sentences"), [(None, 5, 32), (640, 1, 10), (640, 5, 2), (64, 5, 1)])
def test_a_batch_in_tokens_bounds_decoding_too(batch: int | None, beam: int, sentences: int) -> None:
    """64 tokens are reckoned for each of a sentence's hypotheses."""
    decoding = DecodingOptions(beam=beam, max_tokens=8)
    codec = configured(batch=batch, decoding=decoding)
    sizes: list[int] = []
    search = codec.decoder._search_batch
    codec.decoder._search_batch = lambda part, *rest: sizes.append(len(part)) or search(part, *rest)
    vectors = np.resize(EMBEDDINGS, (33, 64))
    assert codec.decode(vectors, "eng_Latn") == configured(decoding=decoding).decode(vectors, "eng_Latn")
    assert sizes == [sentences] * (33 // sentences) + [33 % sentences] * (33 % sentences > 0)


# bad input


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_gpu_without_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    codec = configured(batch=4096)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    name = {"encoder": "stream", "decoder": "write"}[side]
    monkeypatch.setattr(getattr(codec, side), name, full)
    with pytest.raises(CodecError, match=r"cpu has no memory left .* --codec-batch below 4096, .* --codec-device cpu$"):
        codec.encode(SENTENCES, "eng_Latn") if side == "encoder" else codec.decode(EMBEDDINGS, "eng_Latn")


def test_an_address_or_a_cache_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LEXALCM_SONAR_URL", "mirror.example/SONAR")
    with pytest.raises(
        CodecError, match=r"LEXALCM_SONAR_URL is mirror\.example/SONAR, which is not an address: write it like https:"
    ):
        hf_codec(weights=None).encode(SENTENCES, "eng_Latn")
    monkeypatch.setenv("LEXALCM_SONAR_URL", "http://[bad")
    with pytest.raises(CodecError, match="cannot be downloaded"):
        hf_codec(weights=None).encode(SENTENCES, "eng_Latn")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write in .*file.*: set LEXALCM_CACHE to another folder"):
        hf_codec(weights=None).encode(SENTENCES, "eng_Latn")


@pytest.mark.parametrize("name", ["ProxyError", "ReadError", "InvalidURL"])
def test_a_hub_that_breaks_off_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Errors of the hub's client that are no OSErrors."""
    client = sys.modules[type(get_session()).__module__.partition(".")[0]]

    def fail(*_: object, **__: object) -> None:
        raise getattr(client, name)("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CodecError, match="no hub repository of that name can be read: check the name and the network"):
        hf_codec(weights="some/encoder").encode(SENTENCES, "eng_Latn")


def test_an_unknown_language_is_answered_with_the_nearest(codec: SonarHfCodec) -> None:
    with pytest.raises(CodecError, match=r"does not know the language 'fra_Cyrl': the nearest are fra_Latn \(French\)"):
        codec.encode(SENTENCES, "fra_Cyrl")
    with pytest.raises(CodecError, match="does not know the language 'deu_Latn'"):
        codec.decode(EMBEDDINGS, "deu_Latn")


def test_embeddings_of_another_dimension_or_not_finite(codec: SonarHfCodec) -> None:
    with pytest.raises(CodecError, match="decodes 64 dimensions, not 128"):
        codec.decode(np.zeros((2, 128)), "eng_Latn")
    broken = EMBEDDINGS.copy()
    broken[3, 5] = np.nan
    with pytest.raises(CodecError, match="embedding 3 of 5 is not finite"):
        codec.decode(broken, "eng_Latn")


def test_a_tokenizer_of_another_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match=r"has 1,007 tokens, the tokenizer .* with 2 languages has 1,006"):
        hf_codec(languages=LANGUAGES[:2]).encode(SENTENCES, "eng_Latn")
    (tmp_path / "broken.model").write_bytes(b"no tokenizer")
    with pytest.raises(CodecError, match="is not a SentencePiece model"):
        hf_codec(tokenizer=str(tmp_path / "broken.model")).encode(SENTENCES, "eng_Latn")


def test_weights_that_give_no_numbers(tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "nan")
    state = state_of("encoder")
    state["layer_norm.bias"][0] = torch.nan
    torch.save({"model": state}, folder / "encoder.pt")
    with pytest.raises(CodecError, match="is not finite: take --codec-dtype fp32"):
        hf_codec(folder).encode(SENTENCES, "eng_Latn")


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(CodecError, match="64 dimensions cannot be divided among 7 heads"):
        hf_codec(heads=7).encode(SENTENCES, "eng_Latn")


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"'cuda:77' cannot be used: .*; say --codec-device cpu"):
        hf_codec().configure(CodecOptions(device="cuda:77"))


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"codec\.weight: did you mean weights"):
        fit_codec("sonar-hf", [], weight="x")
    embedded = fit_codec("lsa", [("eng_Latn", ["Hello there.", "How are you?"])])
    with pytest.raises(CodecError, match="lsa does not have the option beam: omit it"):
        embedded.configure(CodecOptions(decoding=DecodingOptions(beam=2)))
    embedded.configure(CodecOptions())


def test_sonar_is_whichever_is_installed(codec: SonarHfCodec) -> None:
    found = CODECS.load("sonar").create((), weights=str(REFERENCE), **{"languages": LANGUAGES, "heads": OPTIONS_HEADS})
    assert isinstance(found, SonarHfCodec)  # Meta's package does not read other weights
    assert found.fingerprint == codec.fingerprint


# differentiable decoding


def test_teacher_forced_logits_are_those_of_decoding_token_by_token(codec: SonarHfCodec) -> None:
    assert isinstance(codec, DifferentiableCodec)
    found = codec.decoder.search(EMBEDDINGS[:2], "eng_Latn", DecodingOptions(beam=1))
    width = max(map(len, found)) + 1
    tokens = torch.tensor([[*sentence, *[7] * (width - len(sentence))] for sentence in found])
    logits = codec.token_logits(torch.from_numpy(EMBEDDINGS[:2]), tokens)
    assert (logits.dtype, logits.shape) == (torch.float32, (2, width, codec.tokenizer.vocab_size))
    for row, sentence in enumerate(found):
        for length in range(1, len(sentence)):
            step = codec.decoder.logits(EMBEDDINGS[row], sentence[:length])[-1]
            torch.testing.assert_close(logits[row, length - 1], step, rtol=1e-4, atol=1e-4)
        scores = logits[row, 1 : len(sentence) - 2]  # the language is given, and the end may be forced
        scores[:, PAD] = -torch.inf
        assert scores.argmax(-1).tolist() == sentence[2:-1]  # what the search took, step by step with its cache


def test_gradients_flow_to_the_concepts_alone(codec: SonarHfCodec) -> None:
    """As finite differences say, in every direction of a few at random."""
    tokens = torch.tensor(codec.decoder.search(EMBEDDINGS[:1], "eng_Latn", DecodingOptions(beam=1)))
    concepts = torch.from_numpy(EMBEDDINGS[:1].copy()).requires_grad_()

    def likelihood(concepts: torch.Tensor) -> torch.Tensor:
        scores = codec.token_logits(concepts, tokens[:, :-1]).double().log_softmax(-1)
        return scores.gather(-1, tokens[:, 1:, None]).sum()

    likelihood(concepts).backward()
    assert concepts.grad is not None
    assert all(weight.grad is None for weight in codec.decoder.module.parameters())
    generator, step = torch.Generator().manual_seed(0), 1e-2 * float(np.abs(EMBEDDINGS[0]).mean())
    for _ in range(4):
        direction = torch.randn(concepts.shape, generator=generator)
        with torch.no_grad():
            ahead, behind = likelihood(concepts + step * direction), likelihood(concepts - step * direction)
        slope = float((concepts.grad * direction).sum())
        allowed = 0.02 * float(concepts.grad.norm())
        assert float(ahead - behind) / (2 * step) == pytest.approx(slope, rel=0.02, abs=allowed)
