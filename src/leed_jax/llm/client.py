"""A client of one OpenAI-compatible chat completion endpoint."""

import asyncio
import contextlib
import ipaddress
import math
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self, cast

import httpx
import stamina

from leed_jax.errors import ConfigurationError, EndpointRefusedError, EndpointReplyError, EndpointUnreachableError
from leed_jax.llm.excerpts import Secret, check_variable_name, excerpt, read_key
from leed_jax.llm.messages import ChatRequest, Reply
from leed_jax.llm.retry import AttemptError, Backoff, FailureKind, RetryPolicy, is_transient, retry_after
from leed_jax.llm.wire import RESPONSE_FORMATS, completion_body, read_completion, refusal_mend

MAX_REPLY_BYTES = 4 * 1024 * 1024
_MAX_REFUSAL_BYTES = 16 * 1024
_PORTS = 65536


class OpenAICompatible:
    """One model at one endpoint that speaks the OpenAI chat completion API.

    It is an asynchronous context manager that owns its connections::

        async with OpenAICompatible("http://127.0.0.1:8081/v1", "qwen2.5-1.5b") as model:
            reply = await model.complete(ChatRequest((Message("user", "Hello"),)))

    Passing failures (no connection, a broken one, no answer in time, and the status codes 408, 409, 429 and 5xx) are
    tried again as the policy says; when it gives up, the last failure is raised.

    Args:
        base_url: Where the API begins, for example `http://127.0.0.1:8081/v1`.
        model: The model's name at the endpoint.
        api_key_env: Name of the environment variable that holds the key; None sends none. The key is read when the
            context is entered, sent to this endpoint only, and shown nowhere.
        timeout_s: Seconds that one attempt may take from start to end.
        connect_timeout_s: Seconds, of those, that connecting may take; at most half of them.
        response_format: How a request's schema is passed on: "json_schema", "json_object" or "none".
        retry: How often to try, with what waits, and for how long in all.
        max_reply_bytes: Largest answer that is read.
        transport: What carries the requests, for tests; None for the network.

    Raises:
        ConfigurationError: A setting is unusable.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = "OPENAI_API_KEY",
        timeout_s: float = 120.0,
        connect_timeout_s: float = 5.0,
        response_format: str = "json_schema",
        retry: RetryPolicy | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        check_variable_name(api_key_env)
        if not model:
            raise ConfigurationError("llm.model is empty; set it to a name that the endpoint serves.")
        if response_format not in RESPONSE_FORMATS:
            raise ConfigurationError(
                f"llm.response_format is {response_format!r}; use one of {', '.join(RESPONSE_FORMATS)}."
            )
        for name, seconds in (("timeout_s", timeout_s), ("connect_timeout_s", connect_timeout_s)):
            if not math.isfinite(seconds) or seconds <= 0:
                raise ConfigurationError(f"llm.{name} is {seconds}; it must be a finite number of seconds above 0.")
        if max_reply_bytes < 1:
            raise ConfigurationError(f"max_reply_bytes is {max_reply_bytes}; it must be 1 or more.")
        self._base = _checked_base_url(base_url)
        self.url = f"{str(self._base).rstrip('/')}/chat/completions"
        self.model = model
        self.api_key_env = api_key_env
        self.timeout_s = timeout_s
        # Half, so that the two cannot end together: no connection and a slow answer are told apart.
        self.connect_timeout_s = min(connect_timeout_s, timeout_s / 2)
        self.response_format = response_format
        self.retry = retry or RetryPolicy()
        self.max_reply_bytes = max_reply_bytes
        self._transport = transport
        self._secret = Secret("")
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self.url!r}, model={self.model!r}, key={self._secret!r})"

    @property
    def identity(self) -> str:
        """The model and the response format, which decide an answer together with the request."""
        return f"{self.model} response_format={self.response_format}"

    async def __aenter__(self) -> Self:
        if self._client is not None:
            raise RuntimeError("This client is in use already; enter it once, or make a second one.")
        self._secret = read_key(self.api_key_env)
        # Plain bytes: an answer of a known size cannot grow beyond the bound while it is unpacked.
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret.reveal()}"
        try:
            self._client = httpx.AsyncClient(
                headers=headers,
                # Waiting for a free connection is the caller's concurrency, not the endpoint's slowness.
                timeout=httpx.Timeout(self.timeout_s, connect=self.connect_timeout_s, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
                transport=self._transport,
                # A proxy cannot reach a server on this machine, however the environment is set up.
                trust_env=not _is_loopback(self._base.host),
            )
        except (ValueError, ImportError, OSError) as error:
            # Not quoted, because a proxy's address may hold a password.
            raise ConfigurationError(
                f"The connection to {self.url} cannot be set up ({type(error).__name__}); check the proxy and "
                "certificate variables of the environment (HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE)."
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def complete(self, request: ChatRequest) -> Reply:
        """Ask the endpoint, trying again as the policy says.

        Args:
            request: What to ask.

        Returns:
            The first choice of the answer.

        Raises:
            EndpointUnreachableError: No connection, a broken one, or no answer in time.
            EndpointRefusedError: The endpoint answered with an error status.
            EndpointReplyError: The answer is too large or not a chat completion.
            ConfigurationError: The response schema of the request is not JSON data.
            RuntimeError: The client was not entered (`async with`).
        """
        if self._client is None:
            raise RuntimeError("This client is closed; use it inside `async with`.")
        body = completion_body(self.model, request, self.response_format)
        tries: list[AttemptError] = []
        try:
            async with asyncio.timeout(self.retry.total_s):
                return await self._try(self._client, body, tries)
        except AttemptError as error:
            # The chain ends here: the HTTP library's error holds the request, and with it the key.
            raise error.last(len(tries)) from None
        except TimeoutError:
            earlier = f"; the attempt before: {tries[-1].problem}" if tries else ""
            raise EndpointUnreachableError(
                f"{self.url} gave no answer within {self.retry.total_s:g} s in all{earlier}. {_SLOW_MEND}"
            ) from None

    async def _try(self, client: httpx.AsyncClient, body: bytes, tries: list[AttemptError]) -> Reply:
        """Attempt until one succeeds or the policy gives up; note each failure in `tries`."""
        policy = self.retry
        async for attempt in stamina.retry_context(
            on=Backoff(policy),
            attempts=policy.attempts,
            timeout=None,
            wait_initial=policy.wait_initial_s,
            wait_max=policy.wait_max_s,
            wait_jitter=policy.wait_jitter_s,
        ):
            with attempt:
                try:
                    return await self._attempt(client, body)
                except AttemptError as error:
                    tries.append(error)
                    raise
        raise AssertionError("stamina ended without a result")

    async def _attempt(self, client: httpx.AsyncClient, body: bytes) -> Reply:
        try:
            # httpx bounds each read only; this bounds an answer that drips.
            async with asyncio.timeout(self.timeout_s):
                response, data, whole = await self._post(client, body)
        except httpx.ConnectTimeout:
            # Final, because it has taken seconds already and a machine that is off stays so.
            raise self._unreachable(f"does not answer within {self.connect_timeout_s:g} s", "final") from None
        except httpx.ConnectError as error:
            raise self._unreachable(f"cannot be connected to ({self._quote(error)})", "connect") from None
        except (TimeoutError, httpx.TimeoutException):
            problem = f"{self.url} did not finish its answer within {self.timeout_s:g} s"
            raise AttemptError(EndpointUnreachableError, problem, _SLOW_MEND, "transient") from None
        except httpx.DecodingError:
            raise self._unusable("is compressed, and damaged", b"") from None
        except httpx.HTTPError as error:
            raise self._unreachable(f"broke the connection off ({self._quote(error)})", "transient") from None
        if not response.is_success:
            raise self._refused(response, data)
        if not whole:
            raise self._unusable(f"is larger than {self.max_reply_bytes} bytes", data)
        return self._read(data)

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> tuple[httpx.Response, bytes, bool]:
        """Send one request; return the answer, as much of its body as is allowed, and whether that is all of it."""
        async with client.stream("POST", self.url, content=body) as response:
            limit = self.max_reply_bytes if response.is_success else _MAX_REFUSAL_BYTES
            data = bytearray()
            async with contextlib.aclosing(cast("AsyncGenerator[bytes]", response.aiter_bytes())) as chunks:
                async for chunk in chunks:
                    data += chunk
                    if len(data) > limit:
                        break
            return response, bytes(data[:limit]), len(data) <= limit

    def _read(self, data: bytes) -> Reply:
        try:
            reply = read_completion(data, self.model)
        except ValueError as error:
            raise self._unusable(str(error), data) from None
        clean = self._secret.redact_answer
        reason = None if reply.finish_reason is None else clean(reply.finish_reason)
        return Reply(clean(reply.text), reply.usage, reason, clean(reply.model))

    def _refused(self, response: httpx.Response, data: bytes) -> AttemptError:
        status = response.status_code
        wait = retry_after(dict(response.headers))
        asked = "" if wait is None else f", asking to wait {wait:.1f} s"
        problem = f"{self.url} answered with status {status}{asked}: {excerpt(data, self._secret)}"
        formatted = self.response_format != "none"
        mend = refusal_mend(status, data, self.api_key_env, has_key=bool(self._secret), has_format=formatted)
        return AttemptError(EndpointRefusedError, problem, mend, "transient" if is_transient(status) else "final", wait)

    def _unreachable(self, problem: str, kind: FailureKind) -> AttemptError:
        mend = "Start the server, or set llm.base_url to the address where it listens."
        return AttemptError(EndpointUnreachableError, f"{self.url} {problem}", mend, kind)

    def _unusable(self, problem: str, data: bytes) -> AttemptError:
        begin = f"; it begins {excerpt(data, self._secret)}" if data else ""
        mend = "Check that llm.base_url and llm.model name a chat completion API."
        return AttemptError(EndpointReplyError, f"The answer of {self.url} {problem}{begin}", mend, "final")

    def _quote(self, error: Exception) -> str:
        return excerpt(str(error) or type(error).__name__, self._secret)


_SLOW_MEND = "Raise llm.timeout_s, lower llm.max_tokens or llm.concurrency, or use a faster model."


def _checked_base_url(text: str) -> httpx.URL:
    """Return the address, refusing without a quotation what may hold a password.

    Raises:
        ConfigurationError: It is not the plain address of an HTTP API.
    """
    example = "set it to an address such as http://127.0.0.1:8081/v1"
    try:
        url = httpx.URL(text.strip())
        url.host.encode("idna")  # as looking it up will do, which fails on an empty or overlong part
    except (httpx.InvalidURL, UnicodeError):
        raise ConfigurationError(f"llm.base_url is not a valid address; {example}.") from None
    if url.userinfo or url.query or url.fragment:
        raise ConfigurationError(
            f"llm.base_url (host {url.host!r}) holds a user name, a password, a query or a fragment, which would show "
            "in logs; leave them out, and put a key in the environment variable that llm.api_key_env names."
        )
    if url.scheme not in {"http", "https"} or not url.host or not 0 < (url.port or 1) < _PORTS:
        raise ConfigurationError(f"llm.base_url is not an http:// or https:// address; {example}.")
    if url.path.rstrip("/").endswith("/chat/completions"):
        raise ConfigurationError("llm.base_url ends in /chat/completions, which is added to it; leave that out.")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
