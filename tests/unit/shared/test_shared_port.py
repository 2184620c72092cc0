"""A listener that stops loses no connection that the kernel has accepted for it."""

import asyncio
import socket

import pytest

from mlxmesh_shared.rpc.shared_port import CAN_SHARE, stop_listening


@pytest.mark.skipif(not CAN_SHARE, reason="two processes cannot share a port here")
async def test_what_waits_to_be_accepted_is_accepted_before_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            stopping = asyncio.create_task(stop_listening(f"127.0.0.1:{address[1]}"))
            await asyncio.sleep(0.05)
            assert not stopping.done()
            connection, _ = listener.accept()
            with connection:
                await stopping
                client.sendall(b"still there")
                assert connection.recv(100) == b"still there"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
