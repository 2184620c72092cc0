"""Delay and loss between two links, frame by frame, for kernels without netem:

    python -m tests.hosts.lossy_link ONE OTHER BEYOND DELAY_MS LOSS SEED

It forwards Ethernet frames both ways and prints "ready" when it does; BEYOND is the other end of
the veth pair of OTHER. Needs root and Linux.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import random
import socket
import struct
import sys
from functools import partial

_SIOCETHTOOL = 0x8946
# Source: linux/ethtool.h. Without checksums in hardware there is no segmentation there either.
_SET_TX_CHECKSUM, _SET_SEGMENTATION, _SET_RECEIVE_MERGING = 0x17, 0x24, 0x2C
_ALL_PROTOCOLS = 0x0003
_OUTGOING = 4  # a frame that this host itself has sent
_LARGEST_FRAME_BYTES = 65_536
_BUFFER_BYTES = 4 * 2**20


def disable_offload(link: str) -> None:
    """Has the kernel finish each frame before it sends it: its checksum, and at most 1,500 bytes.

    A veth pair hands over unfinished frames, which a raw socket would pass on as they are.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in (_SET_TX_CHECKSUM, _SET_SEGMENTATION, _SET_RECEIVE_MERGING):
            off = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
            request = struct.pack("16sP", link.encode(), ctypes.addressof(off))
            fcntl.ioctl(control, _SIOCETHTOOL, request)


def open_link(link: str) -> socket.socket:
    """A socket that reads and writes whole frames of a link."""
    frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        frames.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    frames.bind((link, 0))
    frames.setblocking(False)
    return frames


class Forwarder:
    """Forwards frames between two sockets."""

    def __init__(self, *, delay_s: float, loss: float, seed: int) -> None:
        self._delay_s = delay_s
        self._loss = loss
        self._random = random.Random(seed)
        self._loop = asyncio.get_running_loop()

    def connect(self, one: socket.socket, other: socket.socket) -> None:
        """Begins; both directions are delayed and lossy."""
        self._loop.add_reader(one, partial(self._forward, one, other))
        self._loop.add_reader(other, partial(self._forward, other, one))

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                frame, address = source.recvfrom(_LARGEST_FRAME_BYTES)
                if address[2] != _OUTGOING and self._random.random() >= self._loss:
                    self._loop.call_later(self._delay_s, _send, sink, frame)
        except OSError:
            return  # nothing more to read, or the link goes away


def _send(sink: socket.socket, frame: bytes) -> None:
    try:
        sink.send(frame)
    except OSError:
        return  # a full queue, or a link that goes away: the frame is lost, as on any link


async def main(one: str, other: str, beyond: str, delay_ms: str, loss: str, seed: str) -> None:
    disable_offload(beyond)
    forwarder = Forwarder(delay_s=float(delay_ms) / 1000, loss=float(loss), seed=int(seed))
    forwarder.connect(open_link(one), open_link(other))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
