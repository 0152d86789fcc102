"""The three rows that need a whole fleet, on one: at rest, one config to all, all reconnect. Starting it costs more than measuring it.

`python -m benchmarks.fleet_rows [--agents 10000] [--broker mosquitto] [--seconds 120]`; each of them is a script of its own as well.
"""

from benchmarks import config_rollout, idle_fleet, reconnect
from benchmarks.fleet import add_flags, standing
from benchmarks.report import arguments, say


def main() -> None:
    parser = arguments(__doc__)
    add_flags(parser)
    idle_fleet.flags(parser)
    options = parser.parse_args()
    with standing(options) as stand:
        say(idle_fleet.measure(stand, options.seconds, options.profile))
        say(config_rollout.measure(stand))
        say(reconnect.measure(stand))


if __name__ == "__main__":
    main()
