"""Images in messages of the client."""

from pathlib import Path

import pytest

from mlxmesh_client.request import generate_request
from mlxmesh_shared.errors import InvalidArgument


def test_bytes_and_files_are_images(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"img")
    message = {"role": "user", "content": [file, b"raw", "what?"]}
    (made,) = generate_request("m", {"messages": [message]}).chat.messages
    assert [part.image.data or part.text for part in made.parts] == [b"img", b"raw", "what?"]


def test_other_parts_are_named() -> None:
    with pytest.raises(InvalidArgument) as caught:
        generate_request("m", {"messages": [{"role": "user", "content": ["a", 5]}]})
    assert caught.value.field == "chat.messages[0].content[1].text"
