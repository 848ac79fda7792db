"""A GGUF file on this machine, served by llama.cpp inside this process."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import importlib
import importlib.util
import os
import threading
import time
from pathlib import Path
from typing import Any, Self

import httpx

from leed_jax.errors import ConfigurationError, EndpointUnreachableError
from leed_jax.llm.client import ChatClient
from leed_jax.llm.messages import ChatRequest, Reply
from leed_jax.llm.openai import OpenAI

_MAGIC = b"GGUF"
_BLOCK = 2**20
_READY_S = 60.0
_END_S = 3.0
_POLL_S = 0.05


class LocalModel:
    """One model from a GGUF file, on a free port of this machine, for as long as the context is entered.

    Loading takes seconds, in which nothing else in this process runs. It needs the extra `local` (xllamacpp).

    Args:
        path: The file.
        slots: Requests that are computed at the same time.
        context: Tokens of context for each of them.
        threads: Threads to compute with; None for one per core.
        **settings: `timeout_s`, `response_format`, `retry` and `meter`, as for `ChatClient`.
    """

    def __init__(
        self, path: Path | str, *, slots: int = 1, context: int = 4096, threads: int | None = None, **settings: Any
    ) -> None:
        self.path = Path(path).expanduser()
        self._fingerprint = _fingerprint(self.path)
        if importlib.util.find_spec("xllamacpp") is None:
            raise ConfigurationError("llm=local needs the package xllamacpp; run: pip install 'leed-jax[local]'.")
        self._slots, self._context, self._threads = slots, context, threads or os.cpu_count() or 1
        self._settings = settings
        # Made once without an address, to check the settings before the file is loaded.
        self.response_format = ChatClient(OpenAI(), self.path.stem, **self._settings).response_format
        self._server: _Server | None = None
        self._client: ChatClient | None = None

    @property
    def identity(self) -> str:
        """The file's name, size and a hash of parts of it, and the settings that decide an answer."""
        settings = f"context={self._context} response_format={self.response_format}"
        return f"local {self.path.stem} {self._fingerprint} {settings}"

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError("This model is in use already; enter it once, or make a second one.")
        server = self._server = _Server(self.path, self._slots, self._context, self._threads)
        try:
            address = await asyncio.wrap_future(server.address)
            fixed: dict[str, Any] = {"base_url": f"{address}/v1", "api_key_env": "", "connect_timeout_s": 30.0}
            client = ChatClient(OpenAI(), self.path.stem, **fixed, **self._settings)
            await _until_ready(address)
            self._client = await client.__aenter__()
        except BaseException:
            self._server = None
            server.closing.set()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        server, client, self._server, self._client = self._server, self._client, None, None
        if server is None or client is None:
            return
        try:
            # First, because the server drops a request when its connection is closed.
            await client.__aexit__()
        finally:
            server.closing.set()
        # A long prompt that was given up may take longer than is worth waiting for.
        await asyncio.to_thread(server.thread.join, _END_S)

    async def complete(self, request: ChatRequest) -> Reply:
        """Ask the model (see `ChatClient.complete`)."""
        if self._client is None:
            raise RuntimeError("This model is not loaded; use it inside `async with`.")
        return await self._client.complete(request)


class _Server:
    """A daemon thread that loads the model, serves it, and ends when `closing` is set and nothing is being computed.

    The server's destructor waits for what is being computed, and keeps Python from running meanwhile, so the server is
    destroyed only when idle, in a thread that the end of the process does not wait for. `address` is where it listens,
    or why the model cannot be loaded.
    """

    def __init__(self, path: Path, slots: int, context: int, threads: int) -> None:
        self.address: concurrent.futures.Future[str] = concurrent.futures.Future()
        self.closing = threading.Event()
        arguments = (path, slots, context, threads)
        self.thread = threading.Thread(target=self._run, args=arguments, name="leed_jax local model", daemon=True)
        self.thread.start()

    def _run(self, path: Path, slots: int, context: int, threads: int) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled: nobody waits any more
            try:
                server = _serve(path, slots, context, threads)
                address = str(server.listening_address)
            except Exception as error:
                self.address.set_exception(_unloadable(path, error))
                return
            self.address.set_result(address)
        self.closing.wait()
        _wait_until_idle(address)
        del server


def _serve(path: Path, slots: int, context: int, threads: int) -> Any:
    # Read once, when the library is loaded: threads that wait for work must not take the cores from JAX.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    xllamacpp = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.port = 0
    parameters.n_parallel = slots
    parameters.n_ctx = context * slots  # which llama.cpp divides among the slots
    parameters.n_batch = 512  # it notices between two batches that a request was given up
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    # Not in all versions: the address, which is the default; up to 8 GiB of cached prompts, a web page, and chatter.
    for name, value in (("hostnames", ["127.0.0.1"]), ("cache_ram_mib", 256), ("ui", False), ("verbosity", -1)):
        if hasattr(parameters, name):
            setattr(parameters, name, value)
    return xllamacpp.Server(parameters)


def _fingerprint(path: Path) -> str:
    """Return a file's size and a hash of its beginning, middle and end; to read all of it would take long."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            magic = file.read(len(_MAGIC))
            digest = hashlib.sha256()
            for place in (0, size // 2, max(0, size - _BLOCK)):
                file.seek(place)
                digest.update(file.read(_BLOCK))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ConfigurationError(f"llm.path={path} cannot be read ({reason}); set it to a GGUF file.") from None
    if magic != _MAGIC:
        raise ConfigurationError(f"llm.path={path} is not a GGUF file; llm=local takes that format alone.")
    return f"bytes={size} sha256={digest.hexdigest()[:16]}"


def _unloadable(path: Path, error: Exception) -> ConfigurationError:
    if isinstance(error, ImportError):
        advice = "upgrade the package: pip install --upgrade 'leed-jax[local]'"
    else:
        advice = "the file is damaged or of an unknown kind, or memory is short; try lower llm.context, llm.concurrency"
    return ConfigurationError(f"llama.cpp cannot load llm.path={path} ({error}): {advice}.")


async def _until_ready(address: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=_READY_S) as client:
        for _ in range(int(_READY_S / _POLL_S)):
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"{address}/health")).is_success:
                    return
            await asyncio.sleep(_POLL_S)
    raise EndpointUnreachableError(f"llama.cpp did not become ready within {_READY_S:g} s; try a smaller model.")


def _wait_until_idle(address: str) -> None:
    """Wait until nothing is being computed; a server that does not answer counts as idle."""
    with (
        contextlib.suppress(httpx.HTTPError, ValueError, LookupError, TypeError),
        httpx.Client(trust_env=False) as client,
    ):
        while any(slot["is_processing"] for slot in client.get(f"{address}/slots", timeout=_READY_S).json()):
            time.sleep(_POLL_S)
