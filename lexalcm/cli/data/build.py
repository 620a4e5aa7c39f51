"""`lcm data build`."""

from pathlib import Path
from typing import Annotated

import typer

from lexalcm.cli.codec_options import EmbeddingRun, codec_run_options
from lexalcm.cli.console import progress
from lexalcm.cli.data.options import (
    AsJson,
    Chat,
    Codec,
    CodecOptions,
    Documents,
    Dtype,
    JoinLines,
    Lang,
    MaxChars,
    MinChars,
    NoText,
    Overwrite,
    Seed,
    Segmenter,
    SegmenterOptions,
    ShardSize,
    Special,
    TextDocuments,
    TextField,
    Validation,
    build_settings,
    show_built,
)


def build(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Text: .txt, .jsonl, .json (all also .gz, .zst), .parquet, folders of such, or - for standard input.",
        ),
    ],
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    codec_run: EmbeddingRun,
    chat: Chat = False,
    text_field: TextField = "text",
    lang: Lang = "eng_Latn",
    documents: Documents = TextDocuments.BLANK_LINE,
    join_lines: JoinLines = False,
    segmenter: Segmenter = "sentencex",
    segmenter_option: SegmenterOptions = None,
    max_chars: MaxChars = 250,
    min_chars: MinChars = 1,
    codec: Codec = "lsa",
    codec_option: CodecOptions = None,
    special: Special = None,
    validation: Validation = 0.1,
    shard_size: ShardSize = "256MiB",
    dtype: Dtype = "float16",
    no_text: NoText = False,
    seed: Seed = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a data set of your own text.

    Text is split into sentences, each sentence is embedded by the codec, and
    the embeddings are written to shards that training reads. A JSON line or
    parquet row is a document; its `id`, `title` and `lang` are used if it has
    them. The data set is written atomically; for text that takes hours there
    is `lcm data embed`.

    \b
    Examples:
      lcm data build notes.txt --out data/notes             # blank lines divide documents
      lcm data build books/ --documents file --join-lines --out data/books
      lcm data build wiki.jsonl.zst --text-field body --lang deu_Latn --out data/wiki
      lcm data build chats.jsonl --chat --out data/chats    # only what the assistant says is learned
      cat *.txt | lcm data build - --out data/mine
    """
    from lexalcm.data.build.one_process import build_from_paths

    settings = build_settings(
        codec_option,
        segmenter_option,
        codec=codec,
        special=special,
        segmenter=segmenter,
        max_chars=max_chars,
        min_chars=min_chars,
        join_lines=join_lines,
        validation=validation,
        shard_size=shard_size,
        dtype=dtype,
        text=not no_text,
        seed=seed,
    )
    result = build_from_paths(
        paths,
        to,
        settings,
        lang=lang,
        text_field=text_field,
        documents=documents.value,
        chat=chat,
        codec_options=codec_run_options(codec_run),
        overwrite=overwrite,
        progress=progress,
    )
    show_built(result, as_json)
