"""The options of a command in other forms than a command line: a YAML file, and the arguments of a call.

What reads YAML is imported when there is some: it takes longer than an answer about an option should.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.commands import Parser
from benchmark.errors import InputError, did_you_mean
from benchmark.files import write_whole

#: What a file of options does not hold: itself, and what is of one call only.
NOT_KEPT = {"config", "save_config", "dry_run", "list", "force"}


def add_config_options(parser: Parser) -> None:
    """Add the options that read and write a file of all the others."""
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML file of options (method: [ale, eszsl], seeds: 0-4, set: {lr: 0.01}); those of the command line win",
    )
    add("--save-config", type=Path, metavar="FILE", help="write the options into such a file")


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line, and beneath them those of the file that its ``--config`` names.

    Raises:
        InputError: an option is unknown or wrong, in the command line or in the file.
    """
    given = [*(sys.argv[1:] if argv is None else argv)]
    arguments = parser.parse_args(given)
    if arguments.config is not None:
        from benchmark.config import read_yaml

        values = _settled(read_yaml(arguments.config), arguments.set, arguments.config)
        from_file = words(parser, values, str(arguments.config))
        try:
            parser.parse_args(from_file)
        except InputError as error:
            raise InputError(f"{arguments.config}: {error}") from None
        arguments = parser.parse_args([*from_file, *given])
    if arguments.save_config is not None:
        import yaml

        write_whole(arguments.save_config, yaml.safe_dump(_given(parser, arguments), sort_keys=False))
    return arguments


def words(parser: Parser, values: Mapping[str, Any], where: str) -> list[str]:
    """The words of a command line for ``values``: option, without its dashes, -> what it is set to.

    A list stands for several words, a mapping for ``KEY=VALUE`` ones; an option that is None or False is left out.

    Raises:
        InputError: there is no such option; the message says ``where``.
    """
    known = {name.replace("_", "-") for name in vars(parser.parse_args([])).keys() - NOT_KEPT}
    found: list[str] = []
    for key, value in values.items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise InputError(f"{where}: unknown key {key!r}; {did_you_mean(name, known)}")
        if value is None or value is False:
            continue
        found.append(f"--{name}")
        if isinstance(value, Mapping):
            from benchmark.config import assignments

            found += assignments(value)
        elif isinstance(value, list | tuple):
            found += map(str, value)
        elif value is not True:
            found.append(str(value))
    return found


def _settled(values: Mapping[str, Any], overrides: list[str], file: Path) -> dict[str, Any]:
    """``values`` of a file, but for the settings of methods that the command line gives too."""
    from benchmark.config import parse_assignments

    settings = values.get("set") or {}
    if not isinstance(settings, Mapping):
        raise InputError(f"{file}: set must be a mapping as {{lr: 0.01}}, got {settings!r} instead")
    ours = parse_assignments(overrides, "--set")
    return {**values, "set": {key: value for key, value in settings.items() if key not in ours} or None}


def _given(parser: Parser, arguments: argparse.Namespace) -> dict[str, Any]:
    """What differs from the defaults, as a file holds it."""
    from benchmark.config import parse_assignments

    defaults = vars(parser.parse_args([]))
    given = {name: value for name, value in vars(arguments).items() if value != defaults[name]}
    if "set" in given:
        given["set"] = parse_assignments(given["set"], "--set")
    return {name: _plain(value) for name, value in given.items() if name not in NOT_KEPT}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
