"""Options of a command that are made from the fields of a settings class.

    def infer(..., generation: Annotated[dict[str, Any], FromSettings("lexalcm.generate.options:GenerationOptions")]):

gets one mapping, of what was given, for all options of that class (`lexalcm.option`), and their help with them. Such a
command is registered with `cls=SettingsCommand`. The class is imported when the command is parsed or explains itself,
not for the list of all commands.
"""

import inspect
from collections.abc import Collection
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

if TYPE_CHECKING:
    from lexalcm.option import OptionField


class FromSettings(OptionInfo):
    """Stands in a command's signature for the options of a settings class.

    Args:
        settings: the class, `"module:attribute"`.
        without: names of fields that the command does not have.
        defaults: the command's own, by field; else an option that is not given is not in the mapping.
    """

    def __init__(self, settings: str, without: Collection[str] = (), **defaults: Any) -> None:
        super().__init__(default=..., parser=str)
        self.settings = settings
        self.without = without
        self.defaults = defaults

    def fields(self) -> "list[OptionField]":
        """The options of the settings class that the command has."""
        from lexalcm.option import option_fields

        fields = option_fields(resolve_name(self.settings))
        return [field for field in fields if field.path[0] not in self.without]

    def parameter(self, field: "OptionField") -> inspect.Parameter:
        """An option as Typer takes it."""
        words = "" if field.path[-1] in self.defaults or not field.default else f"  \\[default: {field.default}]"
        option = typer.Option(
            *field.flags,
            metavar=field.metavar,
            min=field.minimum,
            max=field.maximum,
            help=field.help + words,
            rich_help_panel=field.panel,
        )
        return inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.defaults.get(field.path[-1]),
            annotation=Annotated[field.type | None, option],
        )

    def take(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take this class's options out of a command's, as a mapping that the class reads."""
        taken: dict[str, Any] = {}
        for field in self.fields():
            value = given.pop(field.name)
            if value is not None:
                inner = taken
                for part in field.path[:-1]:
                    inner = inner.setdefault(part, {})
                inner[field.path[-1]] = value
        return taken


class SettingsCommand(TyperCommand):
    """A command with a `FromSettings` in its signature."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As click asks for them: with the options of settings classes in the place of what stands for them."""
        return [one for declared in super().get_params(ctx) for one in self._options.get(declared.name, [declared])]

    def invoke(self, ctx: Any) -> Any:
        """Hand the function one mapping for each settings class."""
        for name, stand_in in self._stand_ins.items():
            ctx.params[name] = stand_in.take(ctx.params)
        return super().invoke(ctx)

    @cached_property
    def _stand_ins(self) -> dict[str, FromSettings]:
        hints = get_type_hints(inspect.unwrap(self.callback), include_extras=True) if self.callback else {}
        return {
            name: found for name, hint in hints.items() for found in get_args(hint) if isinstance(found, FromSettings)
        }

    @cached_property
    def _options(self) -> dict[str, list[Any]]:
        return {
            name: _made_by_typer([stand_in.parameter(field) for field in stand_in.fields()])
            for name, stand_in in self._stand_ins.items()
        }


def _made_by_typer(parameters: list[inspect.Parameter]) -> list[Any]:
    def function() -> None: ...

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return typer.main.get_command(app).params
