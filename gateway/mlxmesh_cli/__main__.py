"""The command's entry: names and help of every subcommand."""

from __future__ import annotations

import typer

from mlxmesh_cli import lifecycle, models, rolling, settings, text

app = typer.Typer(
    name="mlxmesh",
    help="Serve MLX language models from a mesh of small services.\n\n"
    "Start with `mlxmesh up`, then `mlxmesh chat` in another terminal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

MESH, MODELS, TEXT = "Run the mesh", "Models", "Text"

app.command(rich_help_panel=MESH)(lifecycle.up)
app.command(rich_help_panel=MESH)(lifecycle.down)
app.command(rich_help_panel=MESH)(lifecycle.status)
app.command(rich_help_panel=MESH)(lifecycle.logs)
app.command(rich_help_panel=MESH)(rolling.restart)
app.command(rich_help_panel=MESH)(rolling.drain)
app.command(rich_help_panel=MESH)(settings.doctor)
app.add_typer(settings.config, name="config", rich_help_panel=MESH)
app.command("models", rich_help_panel=MODELS)(models.list_models)
app.command(rich_help_panel=MODELS)(models.register)
app.command(rich_help_panel=MODELS)(models.pull)
app.command(rich_help_panel=MODELS)(models.load)
app.command(rich_help_panel=MODELS)(models.unload)
app.command(rich_help_panel=MODELS)(models.delete)
app.command(rich_help_panel=MODELS)(models.alias)
app.command(rich_help_panel=TEXT)(text.generate)
app.command(rich_help_panel=TEXT)(text.chat)
app.command(rich_help_panel=TEXT)(text.tokens)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
