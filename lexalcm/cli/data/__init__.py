"""`lcm data`: from text to a data set folder, from one folder to another, and what is in one."""

import typer

from lexalcm.cli.data import build, convert, embed, info, normalize, sample
from lexalcm.cli.settings_options import SettingsCommand

app = typer.Typer(help="Turn text into data sets of sentence embeddings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Turn text into data sets of sentence embeddings."""


app.command("sample", cls=SettingsCommand)(sample.sample)
app.command("build", cls=SettingsCommand)(build.build)
app.command("embed", cls=SettingsCommand)(embed.embed)
app.command("convert")(convert.convert)
app.command("normalize")(normalize.normalize)
app.command("info")(info.info)
