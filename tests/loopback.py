"""An HTTP server on 127.0.0.1 that answers, or misbehaves, by script."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from leed_jax.llm import ChatClient, OpenAI

Act = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Choice:
    """An act that depends on what was asked."""

    choose: "Callable[[Received], Act]"


@dataclass
class Received:
    """One request, as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Server:
    """Where it listens, what it was asked, and what it does with each request: the script's last act repeats."""

    script: Sequence[Act | Choice]
    base_url: str = ""
    received: list[Received] = field(default_factory=list)
    open_now: int = 0
    open_most: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._one(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value for name, value in (item.split(": ", 1) for item in rest)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        received = Received(line, headers, body, time.monotonic())
        self.received.append(received)
        act = self.script[min(len(self.received), len(self.script)) - 1]
        act = act.choose(received) if isinstance(act, Choice) else act
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            await act(writer)
        finally:
            self.open_now -= 1


@contextlib.asynccontextmanager
async def serving(*script: Act | Choice) -> AsyncIterator[Server]:
    """Serve a script, one act a request, on a free port."""
    server = Server(script)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(server.serve(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def client(base_url: str, **settings: Any) -> ChatClient:
    """A client of such a server, with OpenAI's API."""
    return ChatClient(OpenAI(), "tiny", base_url=base_url, **settings)


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def completion(text: str | None = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a good answer."""
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        "model": "served",
        **fields,
    }


def message(text: str | None = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a good answer of the Messages API."""
    return {
        "type": "message",
        "role": "assistant",
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 3},
        "model": "served",
        **fields,
    }


def raw(body: bytes, status: int = 200, headers: Sequence[str] = (), length: int | None = None) -> Act:
    """Answer with these bytes, claiming a length of theirs or another one."""

    async def act(writer: asyncio.StreamWriter) -> None:
        claimed = len(body) if length is None else length
        head = [f"HTTP/1.1 {status} Status", f"Content-Length: {claimed}", "Connection: close", *headers]
        writer.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()

    return act


def good(text: str | None = "hello", **fields: Any) -> Act:
    """Answer well."""
    return raw(json.dumps(completion(text, **fields)).encode())


def refusal(status: int, message: str = "no", headers: Sequence[str] = ()) -> Act:
    """Answer with an error status."""
    return raw(json.dumps({"error": {"message": message}}).encode(), status, headers)


def answer(document: Any) -> Act:
    """Answer with JSON; a float that is not a number, or too large for one, goes out as Python writes it."""
    return raw(json.dumps(document).encode())


async def reset(writer: asyncio.StreamWriter) -> None:
    """Begin an answer, and reset the connection."""
    await raw(b'{"choices": [', length=1000)(writer)
    await asyncio.sleep(0.02)
    # Lingering for no time makes the close a reset.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a byte every now and then, for ever: no single read takes long."""
    await raw(b"", length=10**6)(writer)
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def flood(writer: asyncio.StreamWriter) -> None:
    """Send without an end, and without saying how much."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        await writer.drain()


class Heap:
    """An answer of many megabytes, sent as fast as it is taken.

    Attributes:
        sent: Bytes that were taken, roughly: what stands in buffers on the way counts as well.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {self.size}\r\n\r\n".encode())
        piece = b"x" * 2**16
        while self.sent < self.size:
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)


def after(seconds: float, act: Act) -> Act:
    """Wait, and then do something."""

    async def late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await act(writer)

    return late
