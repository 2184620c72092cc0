"""The routes of the console: its pages and their files."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from mlxmesh_gateway.console.files import ConsoleFiles, ConsolePage
from mlxmesh_gateway.console.pages import PAGES

FILES = ("/_app/{path:path}", "/favicon.svg")
"""The paths of everything but pages."""


def console_routes(files: ConsoleFiles | None = None) -> list[BaseRoute]:
    """Every page at its path and below it, and the files; all other paths are left alone."""
    files = files or ConsoleFiles()
    page = ConsolePage(files)
    pages = ["/", *(f"/{name}" for name in PAGES), *(f"/{name}/{{path:path}}" for name in PAGES)]
    return [
        *(Route(path, page.response) for path in pages),
        *(Route(path, files.response) for path in FILES),
    ]
