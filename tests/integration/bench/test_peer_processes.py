"""Starting, asking and stopping a peer, with a small server in the place of a real one."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench.peers import contestants
from tests.bench.peers.catalogue import Argv, Peer, Site
from tests.bench.peers.completions import Prompt, complete
from tests.bench.peers.contestants import Contestant
from tests.bench.peers.install import PeerFailed
from tests.bench.peers.processes import cpu_s, running, started_for
from tests.bench.samples import Sample

SERVER = """
import http.server, json, os, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(404 if asked["prompt"] == "refuse" else 200)
        self.end_headers()
        count = asked["max_tokens"]
        for number in range(count):
            end = "length" if number == count - 1 else None
            self.event({"choices": [{"text": " " + os.environ["WORD"], "finish_reason": end}]})
        self.event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": count}})
        self.wfile.write(b"data: [DONE]\\n\\n")

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\\n\\n")

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""
ENVIRONMENT = {"WORD": "hello"}


def serving(site: Site) -> list[Argv]:
    return [[sys.executable, "-c", SERVER, "--port", str(site.ports[0])]]


def failing(site: Site) -> list[Argv]:
    script = "import sys; sys.exit('no such model')"
    return [[sys.executable, "-c", script, "--port", str(site.ports[0])]]


def places(folder: Path) -> dict[str, Path]:
    return {"programs": folder, "model": folder / "bench", "folder": folder / "peer"}


async def test_a_peer_answers_while_it_is_wanted_and_is_gone_after(tmp_path: Path):
    peer = Peer("small", "small==1", serving)
    async with running(peer, ENVIRONMENT, **places(tmp_path)) as port:
        done = await complete(port, "bench", "hi", new_tokens=3)
        assert (done.tokens, done.chunks) == (3, 3)
        (pid,) = started_for(port)
        assert cpu_s([pid]) > 0
        with pytest.raises(PeerFailed, match="404"):
            await complete(port, "bench", "refuse", new_tokens=3)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_peer_that_exits_is_reported_with_the_end_of_its_log(tmp_path: Path):
    peer = Peer("small", "small==1", failing)
    with pytest.raises(PeerFailed, match="code 1; its log ends: no such model"):
        async with running(peer, ENVIRONMENT, **places(tmp_path)):
            pass


async def test_a_measurement_counts_the_work_of_all_streams(tmp_path: Path):
    peer = Peer("small", "small==1", serving)
    async with running(peer, ENVIRONMENT, **places(tmp_path)) as port:
        measure = contestants.peer(port, "bench", prompt_tokens=1, new_tokens=4)
        sample = await measure(["a", "b", "c"], 0)
        assert (len(sample.ttft_s), sample.chunks) == (3, 12)
        assert sample.ttft_s == sorted(sample.ttft_s)
        wrong = contestants.peer(port, "bench", prompt_tokens=2, new_tokens=4)
        with pytest.raises(PeerFailed, match=r"1 \+ 4 tokens where 2 \+ 4"):
            await wrong(["a"], 0)


async def test_who_fails_is_out_with_the_reason_and_keeps_what_it_showed():
    turns = [Sample(1, [0.1]), Sample(2, [0.2])]

    async def measure(prompts: Sequence[Prompt], seed: int) -> Sample:
        if not turns:
            raise PeerFailed("died")
        return turns.pop()

    contestant = Contestant("small", "as shipped", measure)
    await contestant.take_turn(["a"], 0, keep=False)
    for seed in range(3):
        await contestant.take_turn(["a"], seed)
    measured = contestant.measured()
    assert measured.failure == "at 1 streams: died"
    assert measured.samples == {1: [Sample(1, [0.1])]}
