"""What a meter makes of an endpoint's counts."""

import asyncio

import pytest

from leed_jax.llm import ChatRequest, Limits, Message, Meter, Usage


@pytest.mark.parametrize(("counted", "charged"), [(Usage(0, 4), Usage(20, 4)), (Usage(11, 0), Usage(11, 7))])
def test_a_count_that_is_missing_is_what_was_reserved(counted: Usage, charged: Usage) -> None:
    async def main() -> None:
        meter = Meter(Limits())
        async with meter.admit(ChatRequest((Message("user", "é" * 30),), max_tokens=7)) as ticket:
            ticket.settle(counted)
        assert (meter.spent.usage, meter.reserved) == (charged, Usage())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("size", "counted", "reserved"), [(600, 100, 200), (600, 300, 300), (600, 9999, 600), (60, 60, 20), (600, 0, 200)]
)
def test_a_prompt_of_more_tokens_than_expected_is_a_lesson(size: int, counted: int, reserved: int) -> None:
    asked = ChatRequest((Message("user", "1" * size),), max_tokens=1)

    async def main() -> None:
        meter = Meter(Limits())
        for usage in (Usage(counted, 1), Usage(1, 1)):
            async with meter.admit(asked) as ticket:
                ticket.settle(usage)
        async with meter.admit(asked):
            assert meter.reserved == Usage(reserved, 1)

    asyncio.run(main())
