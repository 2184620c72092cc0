"""Reading the peers' streams of completions, pinned on what each of them really sends."""

import json

import pytest

from tests.bench.peers.completions import Chunk, Completion, Transcript, parse_line, request
from tests.bench.peers.install import PeerFailed

MLX_LM = [
    b": keepalive 10/10\n",
    b"\n",
    b'data: {"choices": [{"index": 0, "finish_reason": null, "text": "vcu"}]}\n',
    b'data: {"choices": [{"index": 0, "finish_reason": null, "text": " vcu"}]}\n',
    b'data: {"choices": [{"index": 0, "finish_reason": "length", "text": ""}]}\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}\n',
    b"data: [DONE]\n",
]
SMG = [
    b'data: {"choices":[{"text":" vcu","index":0,"finish_reason":null}],"model":"m"}\r\n',
    b"\r\n",
    b'data: {"choices":[{"text":" vcu","index":0,"finish_reason":null}],"model":"m"}\r\n',
    b'data: {"choices":[{"text":"","index":0,"finish_reason":"length"}],"model":"m"}\r\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2}}\r\n',
    b"data: [DONE]\r\n",
]
VLLM_MLX = [
    b'data: {"choices": [{"index": 0, "text": " vcu", "finish_reason": null}]}\n',
    b'data: {"choices": [{"index": 0, "text": " vcu", "finish_reason": "length"}],'
    b' "usage": {"prompt_tokens": 10, "completion_tokens": 2}}\n',
    b"data: [DONE]\n",
]

# Framed in chunks, although it is asked in HTTP/1.0.
LLAMA_CPP = [
    b"11b\r\n",
    b'data: {"choices":[{"text":" vcu","index":0,"logprobs":null,"finish_reason":null}]}\n',
    b"\n",
    b"\r\n",
    b"11b\r\n",
    b'data: {"choices":[{"text":"vcu","index":0,"logprobs":null,"finish_reason":null}]}\n',
    b"\n",
    b"\r\n",
    b"28a\r\n",
    b'data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],'
    b'"usage":{"completion_tokens":2,"prompt_tokens":10,"total_tokens":12}}\n',
    b"\n",
    b"\r\n",
    b"e\r\n",
    b"data: [DONE]\n",
]


def read(lines: list[bytes]) -> Completion:
    transcript = Transcript()
    for now_s, line in enumerate(lines):
        if (chunk := parse_line(line)) is not None:
            transcript.add(chunk, now_s)
    return transcript.completion()


@pytest.mark.parametrize(
    ("lines", "first_at_s"), [(MLX_LM, 2), (SMG, 0), (VLLM_MLX, 0), (LLAMA_CPP, 1)]
)
def test_every_peers_stream_is_read_whole(lines: list[bytes], first_at_s: int):
    assert read(lines) == Completion(
        tokens=2, prompt_tokens=10, chunks=2, first_at_s=float(first_at_s)
    )


@pytest.mark.parametrize("line", [b"", b"\r\n", b": keepalive 1/10\n", b"event: ping\n"])
def test_lines_that_are_no_event_are_passed_over(line: bytes):
    assert parse_line(line) is None


def test_an_event_without_choices_or_usage_is_empty():
    assert parse_line(b"data: {}\n") == Chunk()
    assert parse_line(b'data: {"choices": null, "usage": null}\n') == Chunk()


def test_an_error_inside_the_stream_fails_with_its_text():
    with pytest.raises(PeerFailed, match="out of memory"):
        parse_line(b'data: {"error": {"message": "out of memory"}}\n')


def test_tokens_are_the_servers_count_and_not_the_number_of_chunks():
    several_at_once = [
        b'data: {"choices": [{"text": " a b c", "finish_reason": "length"}],'
        b' "usage": {"prompt_tokens": 1, "completion_tokens": 3}}\n'
    ]
    assert (read(several_at_once).tokens, read(several_at_once).chunks) == (3, 1)


@pytest.mark.parametrize("left_out", [0, 3])
def test_a_stream_cut_short_fails(left_out: int):
    with pytest.raises(PeerFailed, match="not at its length"):
        read(MLX_LM[:left_out])


def test_a_stream_that_stopped_early_fails():
    with pytest.raises(PeerFailed, match="'stop'"):
        read([line.replace(b"length", b"stop") for line in VLLM_MLX])


def test_a_stream_without_a_count_of_tokens_fails():
    with pytest.raises(PeerFailed, match="no count of tokens"):
        read([line for line in SMG if b"usage" not in line])


def test_the_request_is_greedy_streamed_and_of_the_length_it_says():
    head, _, body = request("bench", "a ü", 64).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.0\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    asked = json.loads(body)
    assert (asked["model"], asked["prompt"], asked["max_tokens"]) == ("bench", "a ü", 64)
    assert (asked["temperature"], asked["stream"]) == (0, True)
    assert asked["stream_options"] == {"include_usage": True}


def test_a_request_by_token_ids_carries_the_fields_of_its_server():
    _, _, body = request("bench", [1, 2], 64, {"ignore_eos": True}).partition(b"\r\n\r\n")
    asked = json.loads(body)
    assert (asked["prompt"], asked["ignore_eos"], asked["max_tokens"]) == ([1, 2], True, 64)
