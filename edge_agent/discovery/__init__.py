"""Discovery: what this machine is made of and runs, read from /sys, /proc and /etc, without root and without starting a program.

`scan` gives the facts by section (docs/facts.md), `Watcher` tells cheaply which sections to scan again. Deliberately no metrics: nothing
here varies by itself. It knows neither the wire nor the agent; `edge_agent` calls it.
"""

from edge_agent.discovery.scan import PROBES, Scan, Scanner, scan
from edge_agent.discovery.watch import Watcher

__all__ = ["PROBES", "Scan", "Scanner", "Watcher", "scan"]
