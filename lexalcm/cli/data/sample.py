"""`lcm data sample`."""

from pathlib import Path
from typing import Annotated

import typer

from lexalcm.cli.codec_options import EmbeddingRun, codec_run_options
from lexalcm.cli.console import progress
from lexalcm.cli.data.options import AsJson, Codec, CodecOptions, Overwrite, Seed, show_built


def sample(
    codec_run: EmbeddingRun,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to make.  \\[default: data/sample]")] = None,
    codec: Codec = "lsa",
    codec_option: CodecOptions = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a data set of the packaged text: real documents in English and
    Japanese, no download.

    State of the Union addresses, Pride and Prejudice and two novels by Miyazawa
    Kenji, all in the public domain; every tenth document or so is held out for
    validation. If data/sample already is that data set, nothing is done.

    \b
    Examples:
      lcm data sample
      lcm data sample --codec-option dim=128 --out data/small-vectors
      lcm data sample --codec sonar --codec-device cuda:1 --out data/sonar
    """
    from lexalcm.config import load_settings
    from lexalcm.data.build.settings import BuildSettings
    from lexalcm.data.sources.sample import build_sample

    base = {"codec": codec, "seed": seed}
    overrides = [f"codec_options.{option}" for option in codec_option or []]
    settings = load_settings(BuildSettings, overrides=overrides, base=base)
    run = codec_run_options(codec_run)
    result = build_sample(to, settings, codec_options=run, overwrite=overwrite, progress=progress)
    show_built(result, as_json)
