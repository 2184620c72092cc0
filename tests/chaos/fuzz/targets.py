"""What is fuzzed: functions of bytes that let out only the errors that their callers know."""

import importlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")  # it has no types

with atheris.instrument_imports(
    include=["mlxmesh_gateway", "mlxmesh_shared", "mlxmesh_generation", "mlxmesh_model"]
):
    from google.protobuf.message import DecodeError, Message
    from google.protobuf.message_factory import GetMessageClass

    from mlxmesh.engine.v1 import engine_pb2
    from mlxmesh.generation.v1 import generation_pb2
    from mlxmesh.model.v1 import model_pb2
    from mlxmesh_generation import convert
    from mlxmesh_generation.text.output import StopScanner
    from mlxmesh_model.artifacts.safetensors import NotSafetensors, read_tensors
    from mlxmesh_shared.errors import MeshError
    from mlxmesh_shared.reference import ModelReference
    from mlxmesh_shared.rules import Validator
    from mlxmesh_shared.settings import GatewaySettings, SettingsError, load_settings
    from tests.chaos.fuzz.http_requests import HttpRequests

_SERVICES = [
    generation_pb2.DESCRIPTOR.services_by_name["GenerationService"],
    model_pb2.DESCRIPTOR.services_by_name["ModelService"],
    engine_pb2.DESCRIPTOR.services_by_name["EngineService"],
]
_VALIDATOR = Validator.for_services(*_SERVICES)
_REQUESTS: list[type[Message]] = [
    GetMessageClass(method.input_type) for service in _SERVICES for method in service.methods
]
_FILE = Path(tempfile.mkdtemp(prefix="mlxmesh-fuzz-")) / "model.safetensors"


def wire(data: bytes) -> None:
    """The first byte chooses a request; the rest is its encoding."""
    if not data:
        return
    try:
        message = _REQUESTS[data[0] % len(_REQUESTS)].FromString(data[1:])
    except DecodeError:
        return
    try:
        _VALIDATOR.check(message)
        if isinstance(message, generation_pb2.GenerateRequest):
            convert.generation_request(message)
    except MeshError:
        return


def reference(data: bytes) -> None:
    """A model reference that is taken reads the same when it is written out."""
    text = data.decode(errors="replace")
    try:
        parsed = ModelReference.parse(text)
    except MeshError:
        return
    assert ModelReference.parse(str(parsed)) == parsed


def stops(data: bytes) -> None:
    """In pieces of any size, the text up to the first stop text comes out, and nothing more."""
    given = atheris.FuzzedDataProvider(data)
    texts = [given.ConsumeUnicodeNoSurrogates(4) for _ in range(given.ConsumeIntInRange(1, 4))]
    scanner = StopScanner([text for text in texts if text] or ["x"])
    whole = out = ""
    stopped = None
    while given.remaining_bytes() and stopped is None:
        piece = given.ConsumeUnicodeNoSurrogates(given.ConsumeIntInRange(1, 6))
        whole += piece
        text, stopped = scanner.feed(piece)
        out += text
    if stopped is None:
        assert out + scanner.flush() == whole
    else:
        assert whole.startswith(out + stopped)
        assert not any(text in out for text in texts if text)


def safetensors(data: bytes) -> None:
    """A file of a model that may come from anywhere."""
    _FILE.write_bytes(data)
    try:
        read_tensors(_FILE)
    except NotSafetensors:
        return


def settings(data: bytes) -> None:
    """Flags of a service; `--help` is not among them, which ends the process."""
    words = data.decode(errors="replace").replace("\0", "").split(" ")
    if any(word.startswith(("-h", "--h")) for word in words):
        return
    try:
        load_settings(GatewaySettings, words)
    except (SettingsError, MeshError):
        return


_HTTP = HttpRequests()


def http(data: bytes) -> None:
    """A request of any HTTP edge gets a whole response, and never a status of ours alone."""
    status = _HTTP.status(data)
    assert status != 500, status


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (http, wire, reference, stops, safetensors, settings)
}


def seeds(name: str) -> list[bytes]:
    """Inputs to begin with."""
    if name != "wire":
        return {
            "http": _HTTP.seeds(),
            "reference": [b"pocket", b"pocket@2", b"pocket:stable"],
            "stops": [b"\x02ab\x01b\x03abcabdab"],
            "safetensors": [
                b'\x36\0\0\0\0\0\0\0{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
                + b"\0" * 4
            ],
            "settings": [b"--listen 127.0.0.1:0 --log-level debug --max-concurrent-rpcs 5"],
        }[name]
    generate = generation_pb2.GenerateRequest(model="pocket", prompt="Hi", max_tokens=5, stop=["."])
    generate.sampling.temperature = 0.7
    generate.sampling.logit_bias[7] = 1.0
    submit = engine_pb2.Submit(sequence_id=1, prompt_token_ids=[1, 2], max_tokens=4)
    messages: list[Message] = [
        generate,
        generation_pb2.CompleteRequest(generation=generate),
        engine_pb2.ExecuteRequest(submit=submit),
        model_pb2.LoadModelRequest(model="pocket", replicas=1),
    ]
    return [
        bytes([_REQUESTS.index(type(message))]) + message.SerializeToString()
        for message in messages
    ]
