"""`lcm data embed`."""

from pathlib import Path
from typing import Annotated

import typer

from lexalcm.cli.codec_options import EmbeddingRun, codec_run_options
from lexalcm.cli.console import err, print_json, progress
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


def embed(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Text: .txt, .jsonl, .json (all also .gz, .zst), .parquet, folders of such. Many files.",
        ),
    ],
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to make or to resume.")],
    codec_run: EmbeddingRun,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="I/N",
            help="Do share I of N, counted from 0.  \\[default: from a Slurm array or torchrun, else all]",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Do all shares on this Ray cluster; local starts one."),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option("--ray-workers", min=1, help="Ray workers.  \\[default: one a GPU, else one a CPU]"),
    ] = None,
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
    as_json: AsJson = False,
) -> None:
    """Make a data set of a lot of text, by many workers that may die.

    Does what `lcm data build` does, shard by shard: a finished shard is never
    made again. Start the same command any number of times, on any number of
    machines with a shared file system; whoever completes the last shard
    finishes the data set. The result is always the same, byte for byte.

    \b
    Examples:
      lcm data embed wiki/ --out data/wiki                     # killed? the same again
      lcm data embed wiki/ --out data/wiki --task 3/8          # one of eight
      sbatch --array=0-7 launch/embed_array.sbatch wiki/ --out data/wiki
      lcm data embed wiki/ --codec data/base --out data/wiki   # the codec of another data set
      lcm data embed chats/ --chat --out data/chats
      lcm data embed wiki/ --out data/wiki --ray local
    """
    from lexalcm.data.build.embed import embed as work
    from lexalcm.data.build.embed import make_job
    from lexalcm.data.build.ray import embed_on_ray
    from lexalcm.data.build.tasks import choose_task
    from lexalcm.errors import ConfigError

    if ray is not None and task is not None:
        raise ConfigError("--task is for workers that are started one by one, --ray starts them itself: omit one")
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
    job = make_job(
        paths,
        to,
        settings,
        lang=lang,
        text_field=text_field,
        documents=documents.value,
        chat=chat,
        codec_options=codec_run_options(codec_run),
    )
    if ray is None:
        result = work(job, choose_task(task), progress=progress)
    else:
        result = embed_on_ray(job, ray, workers=ray_workers, progress=progress)
    if result.built is None:
        if as_json:
            print_json(result.to_json())
        err.print(result.note())
    else:
        show_built(result.built, as_json, result.to_json())
