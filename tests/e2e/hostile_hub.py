"""Illegal messages for the service that searches hubs and downloads from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from google.protobuf.message import Message

from mlxmesh.model.v1 import hub_pb2 as pb

HUB = "/mlxmesh.model.v1.HubService"

Cases = Iterator[tuple[str, str, Message]]
"""A method, the field that is to be blamed, and the message."""

BAD_REPO_IDS = [
    "",
    "no-owner",
    "../../etc/passwd",
    "a/../b",
    "a/b/c",
    "owner/name\x00",
    "owner/name?x=1",
    "owner/na me",
    "https://evil.example/owner/name",
    "x" * 5000,
]
BAD_REVISIONS = ["../main", "refs/pr/1", "main?x", "-main", "x" * 129, "a\x00b"]
BAD_IDS = ["", "../d-1", "d 1", "d-1' OR 1=1", "x" * 65, "d\x00"]


def bad_hub() -> Cases:
    """All of them."""
    yield from _bad_searches()
    yield from _bad_sources()
    for download_id in BAD_IDS:
        for name in ("Pause", "Resume", "Delete"):
            request = getattr(pb, f"{name}DownloadRequest")(download_id=download_id)
            yield f"{HUB}/{name}Download", "download_id", request
    listing = f"{HUB}/ListDownloads"
    for size in (-1, 1001):
        yield listing, "page_size", pb.ListDownloadsRequest(page_size=size)
    for token in ("x", "x" * 257, "W10=", "WyJhZnRlciIsICJhIl0="):
        yield listing, "page_token", pb.ListDownloadsRequest(page_token=token)


def _bad_searches() -> Cases:
    search = f"{HUB}/SearchHub"
    yield search, "text", pb.SearchHubRequest(text="x" * 257)
    for author in ("../x", "a/b", "-a", "x" * 97, "a\x00"):
        yield search, "author", pb.SearchHubRequest(author=author)
    for size in (-1, 101):
        yield search, "page_size", pb.SearchHubRequest(page_size=size)
    yield search, "page_token", pb.SearchHubRequest(page_token="x" * 2049)
    unknown = cast("pb.HubSort.ValueType", 99)
    yield search, "sort", pb.SearchHubRequest(sort=unknown)
    yield search, "format", pb.SearchHubRequest(format=cast("pb.HubFormat.ValueType", -1))


def _bad_sources() -> Cases:
    get, start = f"{HUB}/GetHubModel", f"{HUB}/StartDownload"
    for repo_id in BAD_REPO_IDS:
        yield get, "repo_id", pb.GetHubModelRequest(repo_id=repo_id)
        yield start, "repo_id", pb.StartDownloadRequest(repo_id=repo_id)
    for revision in BAD_REVISIONS:
        yield get, "revision", pb.GetHubModelRequest(repo_id="a/b", revision=revision)
        yield start, "revision", pb.StartDownloadRequest(repo_id="a/b", revision=revision)
    for name in ("../x", "a/b", "a@1", "a:b", "_store", "a\x00", "x" * 97):
        yield start, "name", pb.StartDownloadRequest(repo_id="a/b", name=name)
    for file in ("../x.gguf", "a/b.gguf", "x.bin", "x.gguf\x00", "x" * 300 + ".gguf"):
        yield start, "file", pb.StartDownloadRequest(repo_id="a/b", file=file)
    for dtype in ("int4", "float32\n"):
        bad = pb.StartDownloadRequest(repo_id="a/b", file="x.gguf", dtype=dtype)
        yield start, "dtype", bad
    yield start, "dtype", pb.StartDownloadRequest(repo_id="a/b", dtype="float16")
