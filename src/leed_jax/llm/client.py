"""A client of one model behind the HTTP API of any provider: sending, retrying, limits."""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Self, cast

import httpx
import stamina

from leed_jax.errors import ConfigurationError, EndpointRefusedError, EndpointReplyError, EndpointUnreachableError
from leed_jax.llm import keys
from leed_jax.llm.limits import Limits, Meter, Ticket
from leed_jax.llm.messages import ChatRequest, Reply
from leed_jax.llm.provider import FallbackFormat, Provider, advice, is_cut, keeps_to, refuses_format
from leed_jax.llm.retry import AttemptError, Attempts, FailureKind, RetryPolicy, retry_after

MAX_REPLY_BYTES = 4 * 1024 * 1024
_MAX_REFUSAL_BYTES = 16 * 1024
_TRANSIENT_STATUS = frozenset({408, 409, 429})
_SERVER_ERROR = 500
_SLOW_ADVICE = "Raise llm.timeout_s, lower llm.max_tokens or llm.concurrency, or use a faster model."
_log = logging.getLogger(__name__)


class ChatClient:
    """One model at one endpoint.

    It is an asynchronous context manager that owns its connections::

        async with ChatClient(Anthropic(), "claude-haiku-4-5") as model:
            reply = await model.complete(ChatRequest((Message("user", "Hello"),)))

    Transient failures (no connection, a broken one, no answer in time, an unreadable answer, and the status codes 408,
    409, 429 and 5xx) are tried again as the policy says. What the endpoint refuses is left out from then on: a response
    format, the name of the length field, the temperature, the seed.

    Args:
        provider: The API that the endpoint speaks.
        model: The model's name at the endpoint.
        base_url: Where the API begins, for example `http://127.0.0.1:8081/v1`; empty for the provider's own address.
        api_key_env: Name of the environment variable that holds the key; empty sends none; None means the provider's
            usual variable at the provider's own address, and none elsewhere.
        timeout_s: Seconds that one attempt may take from start to end.
        connect_timeout_s: Seconds, of those, that connecting may take; at most half of them.
        response_format: How a request's schema is passed on, or "auto" for the strictest that the endpoint takes.
        retry: How often to try, with what waits, and for how long in all.
        meter: The limits of the attempts; None for no limits.
        max_reply_bytes: Largest answer that is read.
        transport: What carries the requests, for tests; None for the network.
    """

    def __init__(
        self,
        provider: Provider,
        model: str,
        *,
        base_url: str = "",
        api_key_env: str | None = None,
        timeout_s: float = 120.0,
        connect_timeout_s: float = 5.0,
        response_format: str = "auto",
        retry: RetryPolicy | None = None,
        meter: Meter | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        keys.check_variable_name(api_key_env)
        if not model:
            raise ConfigurationError("llm.model is empty; set it to a name that the endpoint serves.")
        numbers = {"timeout_s": timeout_s, "connect_timeout_s": connect_timeout_s, "max_reply_bytes": max_reply_bytes}
        for name, value in numbers.items():
            if not 0 < value < math.inf:
                raise ConfigurationError(f"llm.{name} is {value}; it must be a finite number above 0.")
        self._own_address = not base_url.strip()
        self._base = keys.checked_base_url(provider.default_url if self._own_address else base_url, provider.path)
        self.url = f"{str(self._base).rstrip('/')}{provider.path}"
        self.provider = provider
        self.model = model
        usual = provider.key_env if self._own_address else ""
        self.api_key_env = usual if api_key_env is None else api_key_env
        self.timeout_s = timeout_s
        # Half, so that no connection and a slow answer can be distinguished.
        self.connect_timeout_s = min(connect_timeout_s, timeout_s / 2)
        self.response_format = response_format
        self.retry = retry or RetryPolicy()
        self.max_reply_bytes = max_reply_bytes
        self._format = FallbackFormat(response_format, provider.formats, self.url)
        self._dialect = provider.dialect(self._base.host)
        self._meter = meter or Meter(Limits())
        self._transport = transport
        self._secret = keys.Secret("")
        self._client: httpx.AsyncClient | None = None
        self._resources = contextlib.AsyncExitStack()

    @property
    def identity(self) -> str:
        """The provider, the model and the response format, which decide an answer together with the request."""
        return f"{self.provider.name} {self.model} response_format={self.response_format}"

    @property
    def response_format_now(self) -> str:
        """The response format of the next request; with "auto", the strictest that has not failed."""
        return self._format.now

    async def __aenter__(self) -> Self:
        if self._client is not None:
            raise RuntimeError("This client is in use already; enter it once, or make a second one.")
        self._secret = keys.read_key(self.api_key_env)
        keys.check_key_is_safe(self._base, self._secret, self.api_key_env)
        if self._own_address and self.api_key_env and not self._secret:
            raise ConfigurationError(
                f"{self._base.host} wants a key; set the environment variable {self.api_key_env} to yours."
            )
        # No compression: an answer of a known size cannot grow beyond the bound while it is unpacked.
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        try:
            client = httpx.AsyncClient(
                headers=headers | self.provider.headers(self._secret),
                # Waiting for a free connection is due to the caller's concurrency, not to the endpoint.
                timeout=httpx.Timeout(self.timeout_s, connect=self.connect_timeout_s, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
                transport=self._transport,
                # A proxy cannot reach a server on this machine.
                trust_env=not keys.is_loopback(self._base.host),
            )
        except (ValueError, ImportError, OSError) as error:
            # Not quoted, because a proxy's address may hold a password.
            raise ConfigurationError(
                f"The connection to {self.url} cannot be set up ({type(error).__name__}); check the proxy and "
                "certificate variables of the environment (HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE)."
            ) from None
        self._resources.enter_context(keys.redacted_logs(self._secret))
        self._client = await self._resources.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client = None
        await self._resources.aclose()

    async def complete(self, request: ChatRequest) -> Reply:
        """Ask the endpoint, trying again as the policy says.

        Raises:
            LLMError: No usable answer: `EndpointUnreachableError`, `EndpointRefusedError` (an error status),
                `EndpointReplyError` (too large, or not what the API says) or `BudgetError`.
        """
        if self._client is None:
            raise RuntimeError("This client is closed; use it inside `async with`.")
        if request.temperature > self.provider.max_temperature:
            raise ConfigurationError(
                f"llm.temperature is {request.temperature:g}; {self.provider.name} takes 0 to "
                f"{self.provider.max_temperature:g}."
            )
        attempts = Attempts(self.retry)
        try:
            async with asyncio.timeout(self.retry.total_s) as attempts.bound:
                return await self._try(request, attempts)
        except AttemptError as error:
            # No chained error: the HTTP library's error holds the request, and with it the key.
            raise error.last(len(attempts.failures)) from None
        except TimeoutError:
            earlier = f"; the attempt before: {attempts.failures[-1].problem}" if attempts.failures else ""
            raise EndpointUnreachableError(
                f"{self.url} gave no answer within {self.retry.total_s:g} s in all{earlier}. {_SLOW_ADVICE}"
            ) from None

    async def _try(self, request: ChatRequest, attempts: Attempts) -> Reply:
        """Attempt until one succeeds or the policy gives up."""
        policy = self.retry
        async for attempt in stamina.retry_context(
            on=attempts,
            attempts=policy.attempts,
            timeout=None,
            wait_initial=policy.wait_initial_s,
            wait_max=policy.wait_max_s,
            wait_jitter=policy.wait_jitter_s,
        ):
            with attempt:
                try:
                    return await self._adapt(request, attempts)
                except AttemptError as error:
                    attempts.failures.append(error)
                    raise
        raise AssertionError("stamina ended without a result")

    async def _adapt(self, request: ChatRequest, attempts: Attempts) -> Reply:
        """Attempt once, or as often as the endpoint refuses something that can be left out or worded otherwise."""
        schema = request.response_schema
        response_format, dialect = self._format.now if schema is not None else "none", self._dialect
        while True:
            body = self.provider.body(self.model, request, response_format, dialect)
            has_format = schema is not None and response_format != "none"
            try:
                async with self._admitted(request, attempts) as ticket:
                    reply = await self._attempt(body, ticket, has_format=has_format)
            except AttemptError as error:
                other = dialect.after(error.status, error.body)
                if other is not None:
                    if other != self._dialect:
                        _log.warning("%s. Requests leave that out, or rename it, from now on.", error.problem)
                    self._dialect = dialect = other
                    continue
                # Only when the fallback is accepted was it the format that was refused.
                fallback = self._format.after(response_format) if schema is not None else None
                if fallback is None or not refuses_format(error.status, error.body):
                    raise
                response_format = fallback
                continue
            return reply if schema is None else self._checked(reply, request, response_format)

    def _checked(self, reply: Reply, request: ChatRequest, response_format: str) -> Reply:
        """Note what a reply shows about its response format; it is returned in any case, as it was paid for."""
        self._format.accepted(response_format)
        sent = self.provider.schema_sent(request.response_schema or {}, response_format)
        if not is_cut(reply, request.max_tokens) and not keeps_to(reply.text, response_format, sent):
            self._format.ignored(response_format)
        return replace(reply, response_format=response_format)

    async def _attempt(self, body: bytes, ticket: Ticket, *, has_format: bool) -> Reply:
        try:
            # httpx bounds each read only; this bounds an answer that drips.
            async with asyncio.timeout(self.timeout_s):
                response, data, whole = await self._post(body)
        except httpx.ConnectTimeout:
            ticket.refused()
            # Final, because it has taken seconds already and a machine that is off stays so.
            raise self._unreachable(f"does not answer within {self.connect_timeout_s:g} s", "final") from None
        except httpx.ConnectError as error:
            ticket.refused()
            raise self._unreachable("cannot be connected to", "connect", error) from None
        except (TimeoutError, httpx.TimeoutException):
            problem = f"{self.url} did not finish its answer within {self.timeout_s:g} s"
            raise AttemptError(EndpointUnreachableError, problem, _SLOW_ADVICE, "transient") from None
        except httpx.HTTPError as error:
            raise self._unreachable("broke the connection off", "transient", error) from None
        if not response.is_success:
            ticket.refused()
            raise self._refused(response, data, has_format=has_format)
        if not whole:
            raise self._unusable(f"is larger than {self.max_reply_bytes} bytes", data)
        reply = self._read(data)
        ticket.settle(reply.usage)
        return reply

    @contextlib.asynccontextmanager
    async def _admitted(self, request: ChatRequest, attempts: Attempts) -> AsyncIterator[Ticket]:
        """Wait for the meter, which does not count for the time of the whole request."""
        left = attempts.time_left()
        attempts.set_time_left(math.inf)
        async with self._meter.admit(request) as ticket:
            attempts.set_time_left(left)
            yield ticket

    async def _post(self, body: bytes) -> tuple[httpx.Response, bytes, bool]:
        """Send one request; return the answer, as much of its body as is allowed, and whether that is all of it."""
        client = cast("httpx.AsyncClient", self._client)
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
            reply = self.provider.read(data, self.model)
        except (ValueError, RecursionError) as error:
            raise self._unusable(str(error), data) from None
        redact = self._secret.redact_answer
        reason = None if reply.finish_reason is None else redact(reply.finish_reason)
        return replace(reply, text=redact(reply.text), finish_reason=reason, model=redact(reply.model))

    def _refused(self, response: httpx.Response, data: bytes, *, has_format: bool) -> AttemptError:
        status, text = response.status_code, data.decode("utf-8", errors="replace")
        wait = retry_after(dict(response.headers))
        asked = "" if wait is None else f", asking to wait {wait:.1f} s"
        problem = f"{self.url} answered with status {status}{asked}: {keys.excerpt(data, self._secret)}"
        what_to_do = advice(status, text, self.api_key_env, has_key=bool(self._secret), has_format=has_format)
        kind: FailureKind = "transient" if status in _TRANSIENT_STATUS or status >= _SERVER_ERROR else "final"
        return AttemptError(EndpointRefusedError, problem, what_to_do, kind, wait, status, text)

    def _unreachable(self, problem: str, kind: FailureKind, cause: Exception | None = None) -> AttemptError:
        if cause is not None:
            text = str(cause) or type(cause).__name__
            problem += f" ({keys.excerpt(text.encode('utf-8', 'surrogatepass'), self._secret)})"
        start = "Start the server, or set llm.base_url to the address where it listens."
        return AttemptError(EndpointUnreachableError, f"{self.url} {problem}", start, kind)

    def _unusable(self, problem: str, data: bytes) -> AttemptError:
        begin = f"; it begins {keys.excerpt(data, self._secret)}" if data else ""
        what_to_do = "Check that llm.provider, llm.base_url and llm.model name what the endpoint serves."
        return AttemptError(EndpointReplyError, f"The answer of {self.url} {problem}{begin}", what_to_do, "transient")
