"""ProcessService, which the server of every service has: figures, settings and log records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.control.v1 import process_pb2 as pb
from mlxmesh.control.v1.process_pb2_grpc import ProcessServiceServicer
from mlxmesh_shared.host.figures import disk_figures, host_figures, process_figures
from mlxmesh_shared.settings.described import DescribedSetting
from mlxmesh_shared.telemetry.log_ring import (
    LEVELS,
    MAX_BATCH_RECORDS,
    KeptRecord,
    LogRing,
    level_name,
)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ProcessService"].full_name
DEFAULT_TAIL = 200


class ProcessServicer(ProcessServiceServicer):
    """Requests have passed the contract's rules."""

    def __init__(
        self,
        *,
        log: LogRing,
        settings: Callable[[], Iterable[DescribedSetting]],
        data_dir: Path | None,
    ) -> None:
        """data_dir: None for a process that has none."""
        self._log = log
        self._settings = settings
        self._data_dir = data_dir
        self._started_s = time.time()
        # Now: later, a newer version may be installed than the one that runs.
        self._version = version("mlxmesh")

    async def GetProcess(
        self, request: pb.GetProcessRequest, context: Any
    ) -> pb.GetProcessResponse:
        tasks = len(asyncio.all_tasks())
        # On a thread: a file system may be slow.
        response = await asyncio.to_thread(_process, self._started_s, self._data_dir)
        response.version = self._version
        response.tasks = tasks
        return response

    async def ListOwnSettings(
        self, request: pb.ListOwnSettingsRequest, context: Any
    ) -> pb.ListOwnSettingsResponse:
        return pb.ListOwnSettingsResponse(settings=map(_setting, self._settings()))

    async def WatchOwnLog(
        self, request: pb.WatchOwnLogRequest, context: Any
    ) -> AsyncGenerator[pb.WatchOwnLogResponse]:
        level = LEVELS[request.min_level]
        after = self._log.newest
        tail = self._log.tail(request.tail or DEFAULT_TAIL, level)
        for start in range(0, len(tail), MAX_BATCH_RECORDS):
            yield pb.WatchOwnLogResponse(
                records=map(_record, tail[start : start + MAX_BATCH_RECORDS])
            )
        if not request.follow:
            return
        after = max(after, tail[-1].sequence if tail else 0)
        async with aclosing(self._log.follow(after, level)) as batches:
            async for batch in batches:
                yield pb.WatchOwnLogResponse(
                    records=map(_record, batch.records), dropped=batch.dropped
                )


def _process(started_s: float, data_dir: Path | None) -> pb.GetProcessResponse:
    process, host = process_figures(), host_figures()
    response = pb.GetProcessResponse(
        pid=process.pid,
        start_time=_time(started_s),
        resident_bytes=process.resident_bytes,
        cpu_s=process.cpu_s,
        threads=process.threads,
        open_files=process.open_files,
        host=host.name,
        platform=host.platform,
        cores=host.cores,
        load=host.load,
        memory_total_bytes=host.memory_total_bytes,
        memory_available_bytes=host.memory_available_bytes,
        swap_used_bytes=host.swap_used_bytes,
    )
    if data_dir is not None:
        disk = disk_figures(data_dir)
        response.data_dir = str(data_dir)
        response.disk_total_bytes, response.disk_free_bytes = disk.total_bytes, disk.free_bytes
    return response


def _setting(one: DescribedSetting) -> pb.Setting:
    return pb.Setting(
        section=one.section,
        name=one.name,
        value=one.value,
        default=one.default,
        source=one.source,
        source_name=one.source_name,
        live=one.live,
        description=one.description,
    )


def _record(one: KeptRecord) -> pb.LogRecord:
    return pb.LogRecord(
        time=_time(one.created_s),
        level=level_name(one.level),
        component=one.component,
        message=one.message,
        trace_id=one.trace_id,
        fields=one.fields,
        sequence=one.sequence,
    )


def _time(time_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(time_s * 1e6))
    return stamp
