"""A fleet that is not there: thousands of agents in one process, deciding with the very same `agent.step` over invented hosts.

For demonstrations, load and rehearsals; never imported by the agent of a real device. `edge_agent.simulator` is its command.
"""
