"""`lcm visualize`: figures as files and one HTML page."""

import typer

from lexalcm.cli.settings_options import SettingsCommand
from lexalcm.cli.visualize import data, generation, model, run, schedule

app = typer.Typer(help="Draw figures and write them as a report.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Draw figures and write them as a report."""


app.command("data")(data.data)
app.command("run")(run.run)
app.command("schedule")(schedule.schedule)
app.command("generation", cls=SettingsCommand)(generation.generation)
app.command("model")(model.model)
