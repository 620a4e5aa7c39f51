"""The packaged text: real documents in English and Japanese, so that every command works without a download.

555 documents (see resources/README.md for sources): State of the Union addresses 1945-2006, Pride and Prejudice, and
two novels by Miyazawa Kenji. 59 of them, chosen by their ids, are the validation split.
"""

import hashlib
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

from lexalcm.codec.options import CodecOptions
from lexalcm.data.build.one_process import BuildResult, build_dataset
from lexalcm.data.build.settings import BuildSettings, build_record
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.errors import LexaError
from lexalcm.io.progress import Progress, silent

SAMPLE_FILE = "corpus.jsonl.zst"
SAMPLE_OUT = Path("data/sample")

_RESOURCE = files("lexalcm.data.sources") / "resources" / SAMPLE_FILE


def packaged_text() -> AbstractContextManager[Path]:
    """The packaged documents as a file of JSON lines."""
    return as_file(_RESOURCE)


def build_sample(
    out: Path | str | None = None,
    settings: BuildSettings | None = None,
    *,
    codec_options: CodecOptions | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Write the packaged text as a data set folder; see `build_dataset` for what it raises.

    Args:
        out: the folder. None: `SAMPLE_OUT`, and if that already holds what is asked for, nothing is done.
        settings: how.
        codec_options: how the codec is run, which the data set does not depend on.
        overwrite: replace a data set that is there, even one that is what is asked for.
        progress: opens a report of each stage.
    """
    if out is None and not overwrite and holds_sample(SAMPLE_OUT, settings):
        return BuildResult(Dataset.open(SAMPLE_OUT), made=False)
    out = SAMPLE_OUT if out is None else out
    with packaged_text() as path:
        documents = read_documents([Source(path, SAMPLE_FILE)])
        return build_dataset(
            documents,
            out,
            settings,
            source=_source(),
            codec_options=codec_options,
            overwrite=overwrite,
            progress=progress,
        )


def holds_sample(out: Path | str, settings: BuildSettings | None = None) -> bool:
    """Whether a folder is the packaged text built with these settings by this version, and complete."""
    try:
        dataset = Dataset.open(out)
        for name in dataset.manifest.splits:
            dataset.split(name)
        dataset.normalizer()
        dataset.special_concepts()
        dataset.codec()
    except LexaError:
        return False
    return dataset.manifest.build == build_record(settings or BuildSettings(), _source())


def _source() -> dict[str, str]:
    return {"packaged": SAMPLE_FILE, "sha256": hashlib.sha256(_RESOURCE.read_bytes()).hexdigest()}
