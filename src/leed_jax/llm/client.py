"""A client of one model behind the HTTP API of any provider."""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self, cast

import httpx
import stamina

from leed_jax.errors import ConfigurationError, EndpointRefusedError, EndpointReplyError, EndpointUnreachableError
from leed_jax.llm.address import check_key_is_safe, checked_base_url, is_loopback
from leed_jax.llm.excerpts import Secret, check_variable_name, excerpt, kept_from_logs, read_key
from leed_jax.llm.limits import Meter, Ticket
from leed_jax.llm.messages import ChatRequest, Reply, Usage
from leed_jax.llm.openai import OpenAI
from leed_jax.llm.provider import Provider
from leed_jax.llm.retry import AttemptError, Backoff, FailureKind, RetryPolicy, is_transient, retry_after
from leed_jax.llm.structured import Ladder, is_cut, keeps_to, refuses_rung
from leed_jax.llm.wire import refusal_mend

MAX_REPLY_BYTES = 4 * 1024 * 1024
_MAX_REFUSAL_BYTES = 16 * 1024
_log = logging.getLogger(__name__)


class ChatClient:
    """One model at one endpoint.

    It is an asynchronous context manager that owns its connections::

        async with ChatClient(Anthropic(), "claude-haiku-4-5") as model:
            reply = await model.complete(ChatRequest((Message("user", "Hello"),)))

    Passing failures (no connection, a broken one, no answer in time, an answer that cannot be read, and the status
    codes 408, 409, 429 and 5xx) are tried again as the policy says; when it gives up, the last failure is raised. What
    the endpoint turns out not to take is left out from then on: a way to ask for structured output (see `Ladder`), the
    name of the field for the length, a temperature, a seed.

    Args:
        provider: The API that the endpoint speaks.
        model: The model's name at the endpoint.
        base_url: Where the API begins, for example `http://127.0.0.1:8081/v1`; empty for the provider's own address.
        api_key_env: Name of the environment variable that holds the key; empty sends none; None means the provider's
            usual variable at the provider's own address, and none elsewhere. The key is read when the context is
            entered, sent to this endpoint only, and shown nowhere.
        timeout_s: Seconds that one attempt may take from start to end.
        connect_timeout_s: Seconds, of those, that connecting may take; at most half of them.
        response_format: How a request's schema is passed on: a rung of the provider, or "auto" for the strictest that
            the endpoint takes.
        retry: How often to try, with what waits, and for how long in all.
        meter: The limits that each attempt is subject to; None for no limits.
        max_reply_bytes: Largest answer that is read.
        transport: What carries the requests, for tests; None for the network.

    Raises:
        ConfigurationError: A setting is unusable.
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
        check_variable_name(api_key_env)
        if not model:
            raise ConfigurationError("llm.model is empty; set it to a name that the endpoint serves.")
        for name, seconds in (("timeout_s", timeout_s), ("connect_timeout_s", connect_timeout_s)):
            if not math.isfinite(seconds) or seconds <= 0:
                raise ConfigurationError(f"llm.{name} is {seconds}; it must be a finite number of seconds above 0.")
        if max_reply_bytes < 1:
            raise ConfigurationError(f"max_reply_bytes is {max_reply_bytes}; it must be 1 or more.")
        self._own_address = not base_url.strip()
        self._base = checked_base_url(provider.default_url if self._own_address else base_url, provider.path)
        self.url = f"{str(self._base).rstrip('/')}{provider.path}"
        self.provider = provider
        self.model = model
        usual = provider.key_env if self._own_address else ""
        self.api_key_env = usual if api_key_env is None else api_key_env
        self.timeout_s = timeout_s
        # Half, so that the two cannot end together: no connection and a slow answer are told apart.
        self.connect_timeout_s = min(connect_timeout_s, timeout_s / 2)
        self.response_format = response_format
        self.retry = retry or RetryPolicy()
        self.max_reply_bytes = max_reply_bytes
        self._ladder = Ladder(response_format, provider.rungs, self.url)
        self._dialect = provider.dialect(self._base.host)
        self._meter = meter
        self._transport = transport
        self._secret = Secret("")
        self._client: httpx.AsyncClient | None = None
        self._resources = contextlib.AsyncExitStack()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self.url!r}, model={self.model!r}, key={self._secret!r})"

    @property
    def identity(self) -> str:
        """The provider, the model and the response format, which decide an answer together with the request."""
        return f"{self.provider.name} {self.model} response_format={self.response_format}"

    @property
    def response_format_now(self) -> str:
        """How the schema of the next request is passed on; with "auto" it may have gone down from where it began."""
        return self._ladder.now

    async def __aenter__(self) -> Self:
        if self._client is not None:
            raise RuntimeError("This client is in use already; enter it once, or make a second one.")
        self._secret = read_key(self.api_key_env)
        check_key_is_safe(self._base, self._secret, self.api_key_env)
        if self._own_address and self.api_key_env and not self._secret:
            raise ConfigurationError(
                f"{self._base.host} wants a key; set the environment variable {self.api_key_env} to yours."
            )
        # Plain bytes: an answer of a known size cannot grow beyond the bound while it is unpacked.
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        try:
            client = httpx.AsyncClient(
                headers=headers | self.provider.headers(self._secret),
                # Waiting for a free connection is the caller's concurrency, not the endpoint's slowness.
                timeout=httpx.Timeout(self.timeout_s, connect=self.connect_timeout_s, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
                transport=self._transport,
                # A proxy cannot reach a server on this machine, however the environment is set up.
                trust_env=not is_loopback(self._base.host),
            )
        except (ValueError, ImportError, OSError) as error:
            # Not quoted, because a proxy's address may hold a password.
            raise ConfigurationError(
                f"The connection to {self.url} cannot be set up ({type(error).__name__}); check the proxy and "
                "certificate variables of the environment (HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE)."
            ) from None
        self._resources.enter_context(kept_from_logs(self._secret))
        self._client = await self._resources.enter_async_context(client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client = None
        await self._resources.aclose()

    async def complete(self, request: ChatRequest) -> Reply:
        """Ask the endpoint, trying again as the policy says.

        Args:
            request: What to ask.

        Returns:
            The first choice of the answer.

        Raises:
            EndpointUnreachableError: No connection, a broken one, or no answer in time.
            EndpointRefusedError: The endpoint answered with an error status.
            EndpointReplyError: The answer is too large or not what the API says.
            BudgetError: A cap of the meter leaves no room for another attempt.
            ConfigurationError: The response schema of the request is not JSON data, or the provider does not take its
                temperature.
            RuntimeError: The client was not entered (`async with`).
        """
        if self._client is None:
            raise RuntimeError("This client is closed; use it inside `async with`.")
        if request.temperature > self.provider.max_temperature:
            raise ConfigurationError(
                f"llm.temperature is {request.temperature:g}; {self.provider.name} takes 0 to "
                f"{self.provider.max_temperature:g}."
            )
        asking = _Asking(request, self._client)
        try:
            async with asyncio.timeout(self.retry.total_s) as asking.bound:
                return await self._try(asking)
        except AttemptError as error:
            # The chain ends here: the HTTP library's error holds the request, and with it the key.
            raise error.last(len(asking.failures)) from None
        except TimeoutError:
            earlier = f"; the attempt before: {asking.failures[-1].problem}" if asking.failures else ""
            raise EndpointUnreachableError(
                f"{self.url} gave no answer within {self.retry.total_s:g} s in all{earlier}. {_SLOW_MEND}"
            ) from None

    async def _try(self, asking: "_Asking") -> Reply:
        """Attempt until one succeeds or the policy gives up."""
        policy = self.retry
        async for attempt in stamina.retry_context(
            on=Backoff(policy, asking.time_left),
            attempts=policy.attempts,
            timeout=None,
            wait_initial=policy.wait_initial_s,
            wait_max=policy.wait_max_s,
            wait_jitter=policy.wait_jitter_s,
        ):
            with attempt:
                try:
                    return await self._adapt(asking)
                except AttemptError as error:
                    asking.failures.append(error)
                    raise
        raise AssertionError("stamina ended without a result")

    async def _adapt(self, asking: "_Asking") -> Reply:
        """Attempt once, or as often as the endpoint names something that it does not take and that can be left out."""
        schema = asking.request.response_schema
        rung, dialect = self._ladder.now if schema is not None else "none", self._dialect
        while True:
            body = self.provider.body(self.model, asking.request, rung, dialect)
            try:
                reply = await self._attempt(asking, body, formatted=schema is not None and rung != "none")
            except AttemptError as error:
                # What this endpoint wants holds for all requests; a rung counts as refused when a lower one is taken.
                other = dialect.after(error.status, error.said)
                if other is not None:
                    if other != self._dialect:
                        _log.warning("%s. Requests leave that out, or rename it, from now on.", error.problem)
                    self._dialect = dialect = other
                    continue
                lower = self._ladder.below(rung) if schema is not None else None
                if lower is None or not refuses_rung(error.status, error.said):
                    raise
                rung = lower
                continue
            return reply if schema is None else self._judged(reply, asking.request, rung)

    def _judged(self, reply: Reply, request: ChatRequest, rung: str) -> Reply:
        """Note what a reply shows about its rung. It is returned however it is: it was paid for."""
        self._ladder.accepted(rung)
        sent = self.provider.schema_sent(request.response_schema or {}, rung)
        if not is_cut(reply, request.max_tokens) and not keeps_to(reply.text, rung, sent):
            self._ladder.ignored(rung)
        return replace(reply, response_format=rung)

    async def _attempt(self, asking: "_Asking", body: bytes, *, formatted: bool) -> Reply:
        async with self._admitted(asking) as ticket:
            try:
                # httpx bounds each read only; this bounds an answer that drips.
                async with asyncio.timeout(self.timeout_s):
                    response, data, whole = await self._post(asking.client, body)
            except httpx.ConnectTimeout:
                ticket.refused()
                # Final, because it has taken seconds already and a machine that is off stays so.
                raise self._unreachable(f"does not answer within {self.connect_timeout_s:g} s", "final") from None
            except httpx.ConnectError as error:
                ticket.refused()
                raise self._unreachable(f"cannot be connected to ({self._quote(error)})", "connect") from None
            except (TimeoutError, httpx.TimeoutException):
                problem = f"{self.url} did not finish its answer within {self.timeout_s:g} s"
                raise AttemptError(EndpointUnreachableError, problem, _SLOW_MEND, "transient") from None
            except httpx.DecodingError:
                raise self._unusable("is compressed, and damaged", b"") from None
            except httpx.HTTPError as error:
                raise self._unreachable(f"broke the connection off ({self._quote(error)})", "transient") from None
            if not response.is_success:
                ticket.refused()
                raise self._refused(response, data, formatted=formatted)
            if not whole:
                raise self._unusable(f"is larger than {self.max_reply_bytes} bytes", data)
            reply = self._read(data)
            ticket.settle(reply.usage)
            return reply

    @contextlib.asynccontextmanager
    async def _admitted(self, asking: "_Asking") -> AsyncIterator["Ticket | _FreeTicket"]:
        """Wait for the meter, with the bound of the whole request standing still."""
        if self._meter is None:
            yield _FreeTicket()
            return
        async with contextlib.AsyncExitStack() as stack:
            with asking.standing_still():
                ticket = await stack.enter_async_context(self._meter.admit(asking.request))
            yield ticket

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
            reply = self.provider.read(data, self.model)
        except ValueError as error:
            raise self._unusable(str(error), data) from None
        clean = self._secret.redact_answer
        reason = None if reply.finish_reason is None else clean(reply.finish_reason)
        return replace(reply, text=clean(reply.text), finish_reason=reason, model=clean(reply.model))

    def _refused(self, response: httpx.Response, data: bytes, *, formatted: bool) -> AttemptError:
        status, said = response.status_code, data.decode("utf-8", errors="replace")
        wait = retry_after(dict(response.headers))
        asked = "" if wait is None else f", asking to wait {wait:.1f} s"
        problem = f"{self.url} answered with status {status}{asked}: {excerpt(data, self._secret)}"
        mend = refusal_mend(status, said, self.api_key_env, has_key=bool(self._secret), has_format=formatted)
        kind: FailureKind = "transient" if is_transient(status) else "final"
        return AttemptError(EndpointRefusedError, problem, mend, kind, wait, status, said)

    def _unreachable(self, problem: str, kind: FailureKind) -> AttemptError:
        mend = "Start the server, or set llm.base_url to the address where it listens."
        return AttemptError(EndpointUnreachableError, f"{self.url} {problem}", mend, kind)

    def _unusable(self, problem: str, data: bytes) -> AttemptError:
        begin = f"; it begins {excerpt(data, self._secret)}" if data else ""
        mend = "Check that llm.provider, llm.base_url and llm.model name what the endpoint serves."
        return AttemptError(EndpointReplyError, f"The answer of {self.url} {problem}{begin}", mend, "transient")

    def _quote(self, error: Exception) -> str:
        return excerpt(str(error) or type(error).__name__, self._secret)


class OpenAICompatible(ChatClient):
    """A `ChatClient` of an endpoint that speaks OpenAI's API: OpenAI, vLLM, Ollama, llama.cpp and others.

    Args:
        base_url: Where the API begins, for example `http://127.0.0.1:8081/v1`; empty for OpenAI.
        model: The model's name at the endpoint.
        **settings: The other arguments of `ChatClient`.

    Raises:
        ConfigurationError: A setting is unusable.
    """

    def __init__(self, base_url: str, model: str, **settings: object) -> None:
        super().__init__(OpenAI(), model, base_url=base_url, **settings)  # type: ignore[arg-type]


_SLOW_MEND = "Raise llm.timeout_s, lower llm.max_tokens or llm.concurrency, or use a faster model."


@dataclass
class _Asking:
    """One request on its way: what failed so far, and the time that is left."""

    request: ChatRequest
    client: httpx.AsyncClient
    failures: list[AttemptError] = field(default_factory=list)
    bound: asyncio.Timeout | None = None

    def time_left(self) -> float:
        """Return the seconds until the bound of the whole request."""
        end = None if self.bound is None else self.bound.when()
        return math.inf if end is None else end - asyncio.get_running_loop().time()

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop the time meanwhile."""
        left = self.time_left()
        if self.bound is not None:
            self.bound.reschedule(None)
        yield
        if self.bound is not None:
            self.bound.reschedule(asyncio.get_running_loop().time() + left)


class _FreeTicket:
    """A ticket where there is no meter."""

    def settle(self, usage: Usage) -> None:
        """Take no notice."""

    def refused(self) -> None:
        """Take no notice."""
