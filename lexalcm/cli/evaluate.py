"""`lcm evaluate`: how well models predict held-out text, beside two baselines."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lexalcm.cli.console import out, progress


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Model or run folders.  \\[default: newest of runs/*/model]"),
    ] = None,
    data: Annotated[str, typer.Option("--data", help="Data set: a folder or an address.")] = "data/sample",
    split: Annotated[str, typer.Option("--split", help="Split to predict.")] = "validation",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use this many documents, evenly spaced over the split.")
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=4, help="Concepts (at least) that a prediction is compared with.")
    ] = 512,
    corpus_order: Annotated[
        bool, typer.Option("--corpus-order", help="Batches of neighbouring documents instead of random ones: harder.")
    ] = False,
    window: Annotated[
        int, typer.Option("--window", min=2, help="Longest context, in concepts; the row length of training is right.")
    ] = 128,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Denoising steps.  \\[default: the model's]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="Guidance scale.  \\[default: the model's]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise and of the resampling.")] = 0,
    resamples: Annotated[int, typer.Option("--resamples", min=100, help="Bootstrap resamples of documents.")] = 2000,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    to: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the result to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how well models predict the next concept of held-out documents.

    Squared L2: distance of the prediction from the true next concept, in
    the data set's normalized space.

    Contrastive accuracy: the share of the other concepts of the evaluation
    batch that are farther from the prediction than the true one is (its two
    neighbours left out); chance is 50%.

    Beside the models stand two baselines, the last concept repeated and the
    mean of the training split. Intervals (95%) come from resampling documents.

    \b
    Examples:
      lcm evaluate                                 # newest run, data/sample
      lcm evaluate runs/base runs/deep --seed 1
      lcm evaluate runs/base --steps 20 --guidance 2 --limit 100
      lcm evaluate models/mine --data data/wiki --json > wiki.json
    """
    from lexalcm.atomic import check_output_file, write_text
    from lexalcm.evaluate.models import evaluate as run

    if to is not None:
        check_output_file(to)
    evaluation = run(
        models or [None],
        data,
        generation={"steps": steps, "guidance_scale": guidance},
        window=window,
        device=device,
        split=split,
        batch=batch,
        corpus_order=corpus_order,
        limit=limit,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    text = json.dumps(evaluation.to_json(), ensure_ascii=False, indent=2)
    if to is not None:
        write_text(to, text + "\n")
    if as_json:
        out.print_json(text)
        return
    out.print(evaluation.table())
    for line in evaluation.verdicts():
        out.print(line, markup=False)
