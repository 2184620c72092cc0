"""llama.cpp beside the mesh: how it is built and started, and what the comparison says."""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench.memory import traffic_row
from tests.bench.peers import llama_cpp
from tests.bench.peers.catalogue import Site
from tests.bench.peers.contestants import Contestant
from tests.bench.peers.install import PINS, PeerFailed, run_step
from tests.bench.peers.llama_cpp_build import NAME, VERSION, built, check_compiler
from tests.bench.peers.llama_cpp_report import (
    BF16,
    FOUR_BIT,
    Side,
    compared,
    cpu_rows,
    traffic,
    verdicts,
)
from tests.bench.samples import Sample

SITE = Site(Path("/programs"), Path("/model.gguf"), (1001, 1002, 1003))


def side(name: str, variant: str, beside: str, speeds: dict[int, float]) -> Side:
    samples = {streams: [Sample(speed, [0.1])] for streams, speed in speeds.items()}
    return Side(Contestant(name, variant, None, samples), beside, weights_bytes=100_000_000)


SIDES = [
    side("mlxmesh", FOUR_BIT, FOUR_BIT, {1: 30, 8: 60, 32: 90}),
    side("mlxmesh", BF16, BF16, {1: 20, 32: 80}),
    side("BatchGenerator", "float32", BF16, {1: 10, 32: 40}),
    side("llama.cpp", "Q4_1", FOUR_BIT, {1: 50, 8: 60, 32: 100}),
    side("llama.cpp", "BF16", BF16, {1: 40, 32: 40}),
]


def test_the_tools_of_the_build_are_pinned_to_one_version():
    lines = (PINS / f"{NAME}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert {"cmake", "ninja", "pip"} < {pin.split("==")[0] for pin in pins}
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9.-]+==[0-9.]+", pin)] == []


def test_the_server_listens_on_loopback_with_a_slot_a_stream_and_no_cache_of_prompts():
    (argv,) = llama_cpp.llama_cpp(slots=32, threads=2).commands(SITE)
    given = dict(itertools.pairwise(argv))
    assert argv[0] == "/programs/llama-server"
    assert (given["--host"], given["--port"], given["--model"]) == (
        "127.0.0.1",
        "1001",
        "/model.gguf",
    )
    assert (given["--parallel"], given["--threads"]) == ("32", "2")
    assert int(given["--ctx-size"]) == 32 * llama_cpp.CONTEXT_TOKENS
    assert given["--cache-ram"] == "0"
    assert "--no-cache-prompt" in argv


def test_the_file_as_it_ships_is_not_made_anew(tmp_path: Path):
    gguf = Path("/model.gguf")
    assert llama_cpp.as_type(gguf, "Q4_1", programs=tmp_path, folder=tmp_path) == gguf
    with pytest.raises(PeerFailed, match="llama-quantize"):
        llama_cpp.as_type(gguf, "BF16", programs=tmp_path, folder=tmp_path)


def test_what_is_built_already_is_taken(tmp_path: Path):
    there = tmp_path / NAME / f"built-{VERSION}"
    there.mkdir(parents=True)
    assert built(home=tmp_path) == there


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path):
    with pytest.raises(PeerFailed, match=r"needs a C\+\+ compiler.*apt install g\+\+"):
        check_compiler(str(tmp_path))


def test_a_step_that_fails_gives_the_last_line_it_wrote_and_one_that_hangs_is_ended():
    with pytest.raises(PeerFailed, match=r"not installed: no such file$"):
        run_step(["sh", "-c", "echo compiling; echo no such file; exit 1"])
    with pytest.raises(PeerFailed, match="timed out"):
        run_step(["sleep", "60"], limit_s=0.1)


def ratios(sides: Sequence[Side]) -> dict[tuple[str, str], list[float]]:
    return {
        (server.name, server.variant): [at.mesh_speed for at in by_streams.values()]
        for server, by_streams in compared(sides)
    }


def test_every_side_is_compared_with_that_of_ours_which_has_its_weights():
    assert ratios(SIDES) == {
        ("mlxmesh", FOUR_BIT): [1, 1, 1],
        ("mlxmesh", BF16): [1, 1],
        ("BatchGenerator", "float32"): [2, 2],
        ("llama.cpp", "Q4_1"): [0.6, 1, 0.9],
        ("llama.cpp", "BF16"): [0.5, 2],
    }


def test_only_four_bits_at_1_and_32_streams_have_targets():
    judged = [(each.name, each.measured, each.met) for each in verdicts(compared(SIDES))]
    assert judged == [
        ("tokens/s at 1, 4 bit, over llama.cpp Q4_1", 0.6, True),
        ("tokens/s at 32, 4 bit, over llama.cpp Q4_1", 0.9, False),
    ]


def test_a_number_of_streams_that_ours_did_not_end_has_no_ratio():
    ours = side("mlxmesh", FOUR_BIT, FOUR_BIT, {1: 30})
    assert ratios([ours, *SIDES[1:]])["llama.cpp", "Q4_1"] == [0.6]


def test_the_traffic_is_weights_times_tokens_beside_what_the_machine_reads():
    row = traffic_row({"server": "x"}, 100_000_000, 50.0, 20e9)
    assert row == {
        "server": "x",
        "weights MB": 100,
        "tokens/s at 1": 50,
        "GB/s read": 5,
        "of one thread's": 0.25,
    }
    one_stream_only = [side("a", "b", BF16, {1: 10}), side("a", "c", BF16, {8: 10})]
    assert [each["variant"] for each in traffic(one_stream_only, 20e9)] == ["b"]


def test_the_cost_of_a_token_is_the_median_of_its_rounds_and_a_gap_where_there_was_none():
    one = Side(Contestant("a", "b", None), BF16, 0, cpu_ms={1: [3.0, 1.0, 2.0]})
    (row,) = cpu_rows([one], [1, 8])
    assert (row["server"], row["at 1"]) == ("a", 2.0)
    assert math.isnan(float(row["at 8"]))
