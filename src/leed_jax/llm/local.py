"""A GGUF file on this machine, served by llama.cpp inside this process."""

import asyncio
import contextlib
import hashlib
import importlib
import importlib.util
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from leed_jax.errors import ConfigurationError, EndpointUnreachableError
from leed_jax.llm.client import ChatClient
from leed_jax.llm.limits import Meter
from leed_jax.llm.messages import ChatRequest, Reply
from leed_jax.llm.openai import OpenAI
from leed_jax.llm.retry import RetryPolicy

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
        slots: Requests that are computed side by side.
        context: Tokens of context for each of them.
        threads: Threads to compute with; None for one per core.
        timeout_s: Seconds that one attempt may take.
        response_format: As for `ChatClient`.
        retry: How often to try.
        meter: The limits that each attempt is subject to.

    Raises:
        ConfigurationError: The extra is missing, or there is no such file, or it is none of GGUF.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        slots: int = 1,
        context: int = 4096,
        threads: int | None = None,
        timeout_s: float = 120.0,
        response_format: str = "auto",
        retry: RetryPolicy | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self._file = _identified(self.path)
        if importlib.util.find_spec("xllamacpp") is None:
            raise ConfigurationError("llm=local needs the package xllamacpp; run: pip install 'leed-jax[local]'.")
        self._slots, self._context, self._threads = slots, context, threads or os.cpu_count() or 1
        self._settings: dict[str, Any] = {
            "timeout_s": timeout_s,
            "response_format": response_format,
            "retry": retry,
            "meter": meter,
        }
        # Made once without an address, so that a setting that cannot work is told before the file is loaded.
        self.response_format = ChatClient(OpenAI(), self.path.stem, **self._settings).response_format
        self._host: _Host | None = None
        self._client: ChatClient | None = None

    @property
    def identity(self) -> str:
        """The file's name, its size and a hash of parts of it, which stand for its content; and the settings.

        The context is one of them: it decides where a long conversation is cut.
        """
        settings = f"context={self._context} response_format={self.response_format}"
        return f"local {self.path.stem} {self._file} {settings}"

    @property
    def response_format_now(self) -> str:
        """How the schema of the next request is passed on."""
        return self.response_format if self._client is None else self._client.response_format_now

    async def __aenter__(self) -> Self:
        if self._host is not None:
            raise RuntimeError("This model is in use already; enter it once, or make a second one.")
        host = self._host = _Host(self.path, self._slots, self._context, self._threads)
        try:
            address = await host.address()
            client = ChatClient(
                OpenAI(),
                self.path.stem,
                base_url=f"{address}/v1",
                api_key_env="",
                connect_timeout_s=30.0,
                **self._settings,
            )
            await _until_ready(address)
            self._client = await client.__aenter__()
        except BaseException:
            self._host = None
            host.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        host, client, self._host, self._client = self._host, self._client, None, None
        if host is None or client is None:
            return
        try:
            # Before anything else: the server drops a request when its connection is closed.
            await client.__aexit__(kind, error, trace)
        finally:
            host.close()
        await host.ended()

    async def complete(self, request: ChatRequest) -> Reply:
        """Ask the model.

        Args:
            request: What to ask.

        Raises:
            LLMError: There is no usable answer; see `ChatClient.complete`.
            RuntimeError: The model was not entered (`async with`).
        """
        if self._client is None:
            raise RuntimeError("This model is not loaded; use it inside `async with`.")
        return await self._client.complete(request)


class _Host:
    """A thread that owns the server.

    The server's destructor waits for what is being computed, and keeps Python from running meanwhile. So the thread
    lets go of the server only when that is idle. It is a daemon: the end of the process does not wait for it.
    """

    def __init__(self, path: Path, slots: int, context: int, threads: int) -> None:
        self._arguments = path, slots, context, threads
        self._closing = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._address: asyncio.Future[str] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._run, name="leed_jax local model", daemon=True).start()

    async def address(self) -> str:
        """Return where the server listens, once it does.

        Raises:
            ConfigurationError: The model cannot be loaded.
        """
        return await asyncio.shield(self._address)

    def close(self) -> None:
        """Let the server end as soon as it is idle."""
        self._closing.set()

    async def ended(self) -> None:
        """Wait a while for the server's end; a long prompt that was given up may take longer than is worth waiting."""
        await asyncio.wait([self._ended], timeout=_END_S)

    def _run(self) -> None:
        try:
            server = _serve(*self._arguments)
            address = str(server.listening_address)
        except Exception as error:
            self._tell(self._address, error=_unloadable(self._arguments[0], error))
            return
        self._tell(self._address, address)
        self._closing.wait()
        _wait_until_idle(address)
        del server
        self._tell(self._ended)

    def _tell(self, future: asyncio.Future[Any], result: Any = None, error: Exception | None = None) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
                future.exception()  # so that nobody complains when nobody waits any more

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(settle)


def _serve(path: Path, slots: int, context: int, threads: int) -> Any:
    # Read once, as the library is loaded: threads that wait for work must not take the cores from JAX.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    xllamacpp = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.port = 0
    parameters.n_parallel = slots
    parameters.n_ctx = context * slots  # which llama.cpp divides among the slots
    parameters.n_batch = 512  # between two batches it notices that a request was given up
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    # Not in all versions: the address, which is the default; up to 8 GiB of cached prompts, a web page, and chatter.
    for name, value in (("hostnames", ["127.0.0.1"]), ("cache_ram_mib", 256), ("ui", False), ("verbosity", -1)):
        if hasattr(parameters, name):
            setattr(parameters, name, value)
    return xllamacpp.Server(parameters)


def _identified(path: Path) -> str:
    """Return the size of a file, and a hash of its beginning, middle and end.

    The beginning holds the architecture, the vocabulary and the chat template. Two models that were trained on from
    the same one differ everywhere in their weights. To read all of a file would take many seconds.
    """
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
        return ConfigurationError(
            f"The package xllamacpp cannot be loaded ({error}); run: pip install --upgrade 'leed-jax[local]'."
        )
    return ConfigurationError(
        f"llama.cpp cannot load llm.path={path} ({error}): the file is damaged or of a kind that it does not know, or "
        "there is too little memory; try another file, or lower llm.context or llm.concurrency."
    )


async def _until_ready(address: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=_READY_S) as client:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                while not await _is_healthy(client, address):
                    await asyncio.sleep(_POLL_S)
                return
    raise EndpointUnreachableError(f"llama.cpp did not become ready within {_READY_S:g} s; try a smaller model.")


async def _is_healthy(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(f"{address}/health")).is_success
    except httpx.HTTPError:
        return False


def _wait_until_idle(address: str) -> None:
    """Wait until nothing is being computed. A server that does not tell counts as idle."""
    with (
        contextlib.suppress(httpx.HTTPError, ValueError, LookupError, TypeError),
        httpx.Client(trust_env=False) as client,
    ):
        while any(slot["is_processing"] for slot in client.get(f"{address}/slots", timeout=_READY_S).json()):
            time.sleep(_POLL_S)
