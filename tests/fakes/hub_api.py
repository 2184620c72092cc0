"""What the API of huggingface.co answers about models: the shapes, for a hub on loopback.

Source: responses of https://huggingface.co/api/models and /api/models/OWNER/NAME?blobs=true, as
huggingface_hub 2.4 reads them.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

Parameters = Mapping[str, list[str]]
MAX_HEADER_BYTES = 1024 * 1024
"""Of a file whose tensors are told; reading a hostile one takes long."""
LAST_MODIFIED = "2026-05-04T03:02:01.000Z"


def details(files: Mapping[str, bytes], told: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a model beside its id and its files; `told` replaces some of them."""
    found: dict[str, Any] = {
        "private": False,
        "gated": False,
        "downloads": 1200,
        "likes": 34,
        "tags": ["mlx", "safetensors", "license:apache-2.0"],
        "lastModified": LAST_MODIFIED,
        "createdAt": LAST_MODIFIED,
        "cardData": {"license": "apache-2.0", "library_name": "mlx"},
    }
    if "config.json" in files:
        found["config"] = json.loads(files["config.json"])
    elements = _elements(files)
    if elements:
        found["safetensors"] = {"parameters": elements, "total": sum(elements.values())}
    return {**found, **told}


def _elements(files: Mapping[str, bytes]) -> dict[str, int]:
    elements: dict[str, int] = {}
    for name, data in files.items():
        size_bytes = int.from_bytes(data[:8], "little")
        if name.endswith(".safetensors") and size_bytes <= MAX_HEADER_BYTES:
            header = json.loads(data[8 : 8 + size_bytes])
            for tensor, told in header.items():
                if tensor != "__metadata__":
                    count = 1
                    for length in told["shape"]:
                        count *= length
                    elements[told["dtype"]] = elements.get(told["dtype"], 0) + count
    return elements


def page(
    found: list[dict[str, Any]], parameters: Parameters, endpoint: str
) -> tuple[list[dict[str, Any]], str]:
    """The models of a search, and the header Link; a cursor is opaque to its caller."""
    one = {name: values[0] for name, values in parameters.items()}
    matching = [each for each in found if _matches(each, one)]
    key = one.get("sort", "trendingScore")
    matching.sort(key=lambda each: (each.get(key) or 0, each["id"]), reverse=True)
    first = int(base64.b64decode(one["cursor"])) if "cursor" in one else 0
    limit = int(one.get("limit", 1000))
    shown = matching[first : first + limit]
    wanted = set(parameters.get("expand", ()))
    items = [
        {name: value for name, value in each.items() if name in wanted | {"id", "modelId"}}
        for each in shown
    ]
    if first + limit >= len(matching):
        return items, ""
    cursor = base64.b64encode(str(first + limit).encode()).decode()
    query = urlencode({**parameters, "cursor": cursor}, doseq=True)
    return items, f'<{endpoint}/api/models?{query}>; rel="next"'


def _matches(model: Mapping[str, Any], one: Mapping[str, str]) -> bool:
    owner = model["id"].partition("/")[0]
    return (
        one.get("search", "").lower() in model["id"].lower()
        and one.get("author", owner) == owner
        and (not one.get("filter") or one["filter"] in model["tags"])
    )


def parameters_of(query: str) -> Parameters:
    """The parameters of a URL's query."""
    return parse_qs(query)
