"""Clients of event streams that write down what they see, as those of gRPC do.

Their histories count each character of the text as a token, since events carry text alone.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from tests.chaos.clients import ATTACH_PAUSE_S, CALL_TIMEOUT_S
from tests.chaos.history import OK, Call, Ending, Message
from tests.chaos.sse_client import Event, StreamFailed, events

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"


class SseReader:
    """One streamed answer, and what is seen of it; goes on through further gateways."""

    def __init__(
        self,
        gateways: Sequence[str],
        body: Mapping[str, Any],
        *,
        call_id: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """gateways: the HTTP addresses to ask, in turn; more than one lets it resume."""
        self.call_id = call_id
        self.tokens = 0
        """Events with text so far."""
        self._gateways = gateways
        self._body = body
        self._tls = tls
        self._messages: list[Message] = []
        self._ending: Ending | None = None
        self._started_s = time.monotonic()
        self._ended_s: float | None = None
        self._status = ""
        self._attached = 0
        self._ids: list[str] = []

    async def run(self) -> None:
        """Reads to the end of the answer."""
        deadline_s = time.monotonic() + CALL_TIMEOUT_S
        status = await self._read(self.first(self._gateways[0]))
        while status == "LOST" and len(self._gateways) > 1 and time.monotonic() < deadline_s:
            self._attached += 1
            await asyncio.sleep(ATTACH_PAUSE_S)
            gateway = self._gateways[self._attached % len(self._gateways)]
            # Without an event the request may not have reached generation: it is made again.
            stream = self.rest(gateway, self._ids[-1]) if self._ids else self.first(gateway)
            status = await self._read(stream)
        self._status, self._ended_s = status, time.monotonic()

    def first(self, gateway: str) -> AsyncIterator[Event]:
        """Asks for the answer."""
        headers = {"idempotency-key": self.call_id}
        return self._events(gateway, headers)

    def rest(self, gateway: str, after: str) -> AsyncIterator[Event]:
        """Asks again for what comes after an event."""
        headers = {"idempotency-key": self.call_id, "last-event-id": after}
        return self._events(gateway, headers)

    def _events(self, gateway: str, headers: Mapping[str, str]) -> AsyncIterator[Event]:
        return events(gateway, "POST", CHAT, body=self._body, headers=headers, tls=self._tls)

    def text_of(self, content: Mapping[str, Any]) -> str:
        """The text that an event adds."""
        return "".join(choice["delta"].get("content") or "" for choice in content["choices"])

    def end_of(self, content: Mapping[str, Any]) -> str:
        """Why the answer ended, in the event that says so."""
        return next((one["finish_reason"] or "" for one in content["choices"]), "")

    def call(self) -> Call:
        """As it stands: without status when it has not ended."""
        return Call(
            call_id=self.call_id,
            request=json.dumps(self._body),
            started_s=self._started_s,
            messages=list(self._messages),
            status=self._status,
            ended_s=self._ended_s,
            ending=self._ending,
            attached=self._attached,
        )

    async def _read(self, stream: AsyncIterator[Event]) -> str:
        try:
            async for event in stream:
                if event.data != "[DONE]":
                    self._note(event, json.loads(event.data))
        except StreamFailed as error:
            return "LOST" if error.status == 503 else f"HTTP {error.status}"
        except (OSError, asyncio.IncompleteReadError):
            return "LOST"
        return OK if self._ending is not None else "ERROR"

    def _note(self, event: Event, content: Mapping[str, Any]) -> None:
        if content.get("error"):
            return
        text = self.text_of(content)
        self.tokens += bool(text)
        if event.event_id not in self._ids:  # else the number repeats, which the checker finds
            self._ids.append(event.event_id)
        characters = tuple(map(ord, text))
        self._messages.append(Message(len(self._ids), time.monotonic(), characters, text))
        if reason := self.end_of(content):
            written = sum(len(message.text) for message in self._messages)
            self._ending = Ending(finish_reason=reason, completion_tokens=written)


class ResponsesReader(SseReader):
    """The same by /v1/responses, in the background: resumed by its id and `starting_after`."""

    def __init__(self, gateways: Sequence[str], body: Mapping[str, Any], *, call_id: str) -> None:
        super().__init__(gateways, body, call_id=call_id)
        self._response_id = ""

    def first(self, gateway: str) -> AsyncIterator[Event]:
        """As of SseReader."""
        return events(gateway, "POST", RESPONSES, body=self._body)

    def rest(self, gateway: str, after: str) -> AsyncIterator[Event]:
        """As of SseReader."""
        number = after.partition(".")[0]  # as OpenAI's clients name it
        query = f"stream=true&starting_after={number}"
        return events(gateway, "GET", f"{RESPONSES}/{self._response_id}?{query}")

    def text_of(self, content: Mapping[str, Any]) -> str:
        """As of SseReader."""
        self._response_id = content.get("response", {}).get("id", self._response_id)
        return content["delta"] if content["type"] == "response.output_text.delta" else ""

    def end_of(self, content: Mapping[str, Any]) -> str:
        """As of SseReader."""
        if content["type"] in ("response.completed", "response.incomplete"):
            return content["response"]["status"]
        return ""
