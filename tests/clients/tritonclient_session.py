# pyright: basic, reportMissingImports=false
"""What a program does with tritonclient, as JSON: run by its environment's Python, not ours.

Usage: tritonclient_session.py GRPC_ADDRESS HTTP_ADDRESS
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

TIMEOUT_S = 60
SAMPLING = {"max_tokens": "16", "temperature": "0.8", "seed": "5"}


def inputs(library: Any, text: str, sampling: object = SAMPLING, **flags: bool) -> list[Any]:
    values = {"text_input": text, "sampling_parameters": json.dumps(sampling)}
    made = []
    for name, value in values.items():
        tensor = library.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([value.encode()], dtype=object))
        made.append(tensor)
    for name, flag in flags.items():
        tensor = library.InferInput(name, [1], "BOOL")
        tensor.set_data_from_numpy(np.array([flag]))
        made.append(tensor)
    return made


def text_of(result: Any) -> str:
    output = result.as_numpy("text_output")
    return "" if output is None else output[0].decode()


def error_of(call: Any) -> str:
    try:
        call()
    except InferenceServerException as error:
        return error.message()
    return ""


def facts(client: Any) -> dict[str, Any]:
    """What both clients can ask."""
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model": client.is_model_ready("pocket"),
        "version": client.is_model_ready("pocket", "1"),
        "nobody": client.is_model_ready("nobody"),
    }


def grpc_session(address: str) -> dict[str, Any]:
    with over_grpc.InferenceServerClient(address) as client:
        found = facts(client)
        found["server"] = client.get_server_metadata(as_json=True)["name"]
        found["inputs"] = len(client.get_model_metadata("pocket").inputs)
        made = inputs(over_grpc, "Once upon", return_num_output_tokens=True)
        result = client.infer("pocket", made, request_id="r-7")
        found["text"] = text_of(result)
        found["tokens"] = int(result.as_numpy("num_output_tokens")[0])
        found["id"] = result.get_response().id
        wrong = inputs(over_grpc, "Once", {"temperature": 77})
        found["error"] = error_of(lambda: client.infer("pocket", wrong))
        found["unknown"] = error_of(lambda: client.infer("nobody", made))
        return found | {"streams": streams(client), "cancelled": cancelled(client)}


def streams(client: Any) -> dict[str, Any]:
    """Three requests on one stream, one of them wrong: the text, or the error, of each."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for name in ("a", "b"):
        client.async_stream_infer(
            "pocket",
            inputs(over_grpc, "Once upon", stream=True),
            request_id=name,
            enable_empty_final_response=True,
        )
    client.async_stream_infer("nobody", inputs(over_grpc, "Once"), request_id="c")
    texts: dict[str, str] = {"a": "", "b": "", "error": ""}
    left = 3
    while left:
        result, error = answers.get(timeout=TIMEOUT_S)
        if error is not None:
            texts["error"] += error.message()
            left -= 1
            continue
        response = result.get_response()
        texts[response.id] += text_of(result)
        left -= response.parameters["triton_final_response"].bool_param
    client.stop_stream()
    return texts


def cancelled(client: Any) -> bool:
    """Whether a stream that is cancelled tells so, and the client can go on."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    endless = inputs(over_grpc, "Once", {"max_tokens": 1900, "ignore_eos": True}, stream=True)
    client.async_stream_infer("pocket", endless)
    _, error = answers.get(timeout=TIMEOUT_S)
    client.stop_stream(cancel_requests=True)
    return error is None and client.is_server_live()


def http_session(address: str) -> dict[str, Any]:
    with over_http.InferenceServerClient(address) as client:
        found = facts(client)
        found["server"] = client.get_server_metadata()["name"]
        found["inputs"] = len(client.get_model_metadata("pocket")["inputs"])
        made = inputs(over_http, "Once upon", return_num_output_tokens=True)
        result = client.infer("pocket", made, request_id="r-7")
        found["text"] = text_of(result)
        found["tokens"] = int(result.as_numpy("num_output_tokens")[0])
        found["id"] = result.get_response()["id"]
        output = over_http.InferRequestedOutput("text_output", binary_data=False)
        in_json = client.infer("pocket", made, outputs=[output])
        found["plain"] = in_json.as_numpy("text_output")[0]
        wrong = inputs(over_http, "Once", {"temperature": 77})
        found["error"] = error_of(lambda: client.infer("pocket", wrong))
        found["unknown"] = error_of(lambda: client.infer("nobody", made))
        return found


def main() -> None:
    grpc_address, http_address = sys.argv[1:]
    answer = {
        "grpc": grpc_session(grpc_address),
        "http": http_session(http_address),
        "contract": service_pb2.DESCRIPTOR.serialized_pb.hex(),
    }
    print(json.dumps(answer))


main()
