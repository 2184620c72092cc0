"""Which paths are pages of the console, and what an unbuilt console answers."""

from __future__ import annotations

PAGES = (
    "access",
    "chat",
    "events",
    "experiments",
    "first-run",
    "jobs",
    "mesh",
    "models",
    "requests",
    "rollouts",
    "shadows",
    "sign-in",
    "system",
    "tools",
)
"""The first part of the path of each page: the folders of gateway/console/src/routes."""

NOT_BUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>mlxmesh</title>
<h1>The console is not built yet</h1>
<p>The mesh runs, and its APIs answer. In a checkout, <code>make up</code> builds the console in the
background, which takes a minute; <code>make console</code> builds it now and says what is wrong.
This page looks for it every five seconds.</p>
</html>
"""
"""A page that asks again by itself."""
