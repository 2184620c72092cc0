"""The caller's trace goes along with its calls."""

import subprocess
import sys

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from mlxmesh_client.calls import trace_metadata

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_call_brings_the_span_that_it_is_made_in() -> None:
    context = SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(1))
    token = attach(trace.set_span_in_context(NonRecordingSpan(context)))
    try:
        assert trace_metadata() == (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
    finally:
        detach(token)
    assert trace_metadata() is None


def test_who_does_not_use_opentelemetry_does_not_import_it() -> None:
    code = (
        "import sys\n"
        "import mlxmesh_client, mlxmesh_cli.commands.text, mlxmesh_cli.commands.models\n"
        "import mlxmesh_cli.commands.overview\n"
        "from mlxmesh_client.calls import trace_metadata\n"
        "assert trace_metadata() is None\n"
        "sys.exit('opentelemetry' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
