"""What the agent says of itself: the section `agent` of the facts, with the owner's policy and the commands that have not reached it.

A section, because it then travels as facts do: authenticated, sent when it has changed, and asked for again when the server lacks it. Pure;
called by whoever changes what stands in it.
"""

from broker.messages import AGENT_SECTION
from edge_agent.facts import section_of
from edge_agent.outbox import FactsPart
from edge_agent.state import Turn


def report(turn: Turn, force: bool = False) -> None:
    """Queue the section where it is not as last reported; with `force` in any case. Nothing before the shell has said the policy."""
    policy, awaited = turn.state.policy, turn.state.awaited
    if policy is None:
        return
    section = section_of({"policy": policy.as_json(), "missing": list(awaited.missing), "missing_since": awaited.since})
    if force or turn.state.durable.manifest.get(AGENT_SECTION) != section.hash:
        turn.keep(manifest={**turn.state.durable.manifest, AGENT_SECTION: section.hash})
        turn.put(FactsPart(AGENT_SECTION, section))
