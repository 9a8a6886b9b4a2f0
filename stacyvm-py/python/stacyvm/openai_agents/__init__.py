"""Sandboxes for AI agents of the OpenAI Agents SDK.

It needs `pip install "stacyvm[openai-agents]"`.

    from agents import RunConfig, Runner
    from agents.sandbox import SandboxAgent, SandboxRunConfig
    from stacyvm.openai_agents import StacySandboxClient, StacySandboxClientOptions

    agent = SandboxAgent(name="coder", instructions="Fix the tests.")
    sandbox = SandboxRunConfig(
        client=StacySandboxClient(),
        options=StacySandboxClientOptions(image="python:3.12", memory_mib=1024),
    )
    result = await Runner.run(agent, "Go.", run_config=RunConfig(sandbox=sandbox))
"""

from ._client import StacySandboxClient, StacySandboxClientOptions
from ._session import StacySandboxSession, StacySandboxSessionState

__all__ = [
    "StacySandboxClient",
    "StacySandboxClientOptions",
    "StacySandboxSession",
    "StacySandboxSessionState",
]
