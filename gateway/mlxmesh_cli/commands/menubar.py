"""The command that shows a mesh in the menu bar of macOS: menubar."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import DataDir, Json
from mlxmesh_cli.mesh.location import resolve_data_dir


def menubar(
    interval_s: Annotated[
        float, typer.Option("--interval", min=1, max=3600, help="Seconds between refreshes.")
    ] = 3.0,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show the mesh in the menu bar of macOS: state, models, traffic; load, unload, start, stop.

    It needs the extra `menubar`. Quitting it leaves the mesh as it is.
    """
    if sys.platform != "darwin":
        fail(
            "the menu bar is macOS's; here, `mlxmesh open` shows the mesh in a browser and"
            " `mlxmesh top` in a terminal",
            reason="NOT_SUPPORTED",
        )
    if find_spec("rumps") is None:
        fail('the menu bar needs `pip install "mlxmesh[menubar]"`', reason="NOT_INSTALLED")
    import rumps  # pyright: ignore[reportMissingImports]

    from mlxmesh_cli.menubar.local_mesh import LocalMesh
    from mlxmesh_cli.menubar.presenter import MenuBar
    from mlxmesh_cli.menubar.rumps_view import RumpsView

    view = RumpsView(rumps, interval_s)
    view.run(MenuBar(view, LocalMesh(resolve_data_dir(data_dir))).refresh)
