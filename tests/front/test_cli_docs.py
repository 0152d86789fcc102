"""docs/cli.md says what the commands say, and the README's commands exist."""

import re
from pathlib import Path

from click.testing import CliRunner

from fleetward.cli.entry import COMMANDS, cli
from fleetward.cli.reference import reference

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    """Regenerate with `python -m fleetward.cli.reference > docs/cli.md`."""
    assert (ROOT / "docs" / "cli.md").read_text() == reference()


def test_lists_of_commands_cut_no_sentence_off() -> None:
    """The first sentence of each command stands there whole, however narrow the terminal."""
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    assert "..." not in shown.partition("Commands:")[2]
    assert "why it is as it\n               is, its last changes." in shown


def test_every_option_is_explained() -> None:
    """An option without a word of help is one that nobody finds."""
    speechless = [
        f"{command.name} {option.name}"
        for command in COMMANDS
        for option in command.params
        if option.param_type_name == "option" and not getattr(option, "help", None)
    ]
    assert speechless == []


def test_commands_in_the_readme_exist() -> None:
    """Each `make` target and each `fleetward` command that the README names is one."""
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?=`|\s+#| ARGS|$)", readme, re.MULTILINE)) <= targets
    assert set(re.findall(r"bin/fleetward ([a-z]+)", readme)) <= {str(command.name) for command in COMMANDS}
    for path in re.findall(r"-f (docs/\S+)", readme):
        assert (ROOT / path).exists()
