"""Every error that leed_jax raises on purpose.

    LeedError
     +-- ConfigurationError        a key, a type or a combination of settings
     +-- EnvironmentContractError  an environment that breaks the protocol
     +-- InstructionError          text that is not an executable instruction
     |    +-- UnreadableReplyError       no list of triples in it
     |    +-- UnknownCommandError
     |    +-- UnknownParameterError
     |    +-- ParameterNotAllowedError   known, but not for this command or agent
     |    +-- UnknownAgentError
     |    +-- PlanShapeError             too many instructions, or none, for an agent
     +-- DemonstrationError        a demonstration set that is missing, altered or made for something else
     +-- RunDirectoryError         a run directory that cannot be used as asked
     +-- LLMError                  an endpoint
          +-- EndpointUnreachableError   nobody answers
          +-- EndpointRefusedError       it answers with an error status
          +-- EndpointReplyError         it answers, but not as the API says
          +-- BudgetError                a limit of calls, tokens or money is reached
          +-- ReplayError                recorded replies do not hold this one

Messages are one paragraph: what is wrong, where, and what to do about it. The command lines print the message alone and
exit with status 2.
"""


class LeedError(Exception):
    """Base of the errors below."""


class ConfigurationError(LeedError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another one."""


class EnvironmentContractError(LeedError):
    """An environment does not keep the protocol of `leed_jax.environments`."""


class InstructionError(LeedError, ValueError):
    """Text that cannot be executed in the environment at hand; the message is fed back to the model."""


class UnreadableReplyError(InstructionError):
    """A reply holds no list of `[Command, Parameter, AgentID]` triples."""


class UnknownCommandError(InstructionError):
    """The environment has no such command."""


class UnknownParameterError(InstructionError):
    """The environment has no such parameter."""


class ParameterNotAllowedError(InstructionError):
    """The parameter exists, but not for this command or this agent."""


class UnknownAgentError(InstructionError):
    """The environment has no such agent."""


class PlanShapeError(InstructionError):
    """An agent has no instruction, or more than a plan holds."""


class DemonstrationError(LeedError):
    """A demonstration set is missing, damaged, or made for another environment."""


class RunDirectoryError(LeedError):
    """A run directory is in use, incomplete, or not a run directory."""


class LLMError(LeedError):
    """The language model's endpoint did not give a usable answer."""


class EndpointUnreachableError(LLMError):
    """No connection, or no answer in time."""


class EndpointRefusedError(LLMError):
    """The endpoint answered with an error status."""


class EndpointReplyError(LLMError):
    """The endpoint's answer is not a chat completion."""


class BudgetError(LLMError):
    """A limit of calls, tokens or money leaves no room for a request; it was not sent."""


class ReplayError(LLMError):
    """Recorded replies hold none to a request."""
