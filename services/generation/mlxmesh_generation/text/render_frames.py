"""The frames between generation and the processes that run chat templates.

Apart from `render_process`, so that generation does not import jinja2.
"""

import socket
import struct

TEXT, MARKED_TEXT, REFUSED, UNUSABLE, EXHAUSTED = b"T", b"M", b"R", b"U", b"X"
"""The first byte of a response; after EXHAUSTED, its process should be replaced."""
RENDER_MODULE = "mlxmesh_generation.text.render_process"
"""What a process that runs templates runs."""
_LENGTH = struct.Struct(">I")


def read_frame(stream: socket.socket) -> bytes:
    """Raises: EOFError when the stream ends before."""
    [size] = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
    return _read_exactly(stream, size)


def write_frame(stream: socket.socket, content: bytes) -> None:
    stream.sendall(_LENGTH.pack(len(content)) + content)


def _read_exactly(stream: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = stream.recv(min(size - len(received), 2**20))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)
