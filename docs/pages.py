"""Pages of methods and losses, in Markdown, from what they say of themselves: registration, docstrings and YAML."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import griffe

from benchmark.config import Config, ConfigFile, Published, Range, load_file
from benchmark.files import ROOT
from benchmark.registry import Entry

#: What a cell shows where there is nothing.
NOTHING = "\N{EN DASH}"
#: Cells of a table's row.
Cells = Sequence[str]


def page(entry: Entry[Any]) -> str:
    """The page of a method or a loss: what it is, its settings, and what is published of it."""
    yaml = load_file(entry.config_file)
    parts = [
        f"# {entry.title}",
        f"`{entry.name}`, {entry.family}, {entry.year}. {entry.source}.",
        _prose(entry.obj),
        *_settings(entry, yaml),
        *_search(yaml.search),
        *_published(yaml.published),
        "## Code",
        ", ".join(f"`{_place(file)}`" for file in (entry.file, entry.config_file) if file.is_file()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Cells, rows: Iterable[Cells]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _prose(obj: type) -> str:
    """The docstring of a class as Markdown, without the sections of its arguments and attributes."""
    return "\n\n".join(_markdown(section.value) for section in _sections(obj) if section.kind.value == "text")


def _sections(obj: type) -> list[Any]:
    return griffe.Docstring(inspect.cleandoc(obj.__doc__ or ""), lineno=1).parse("google", warnings=False)


def _settings(entry: Entry[Any], file: ConfigFile) -> Iterator[str]:
    """What can be set: what it means, and what it is by default and in each profile."""
    schema: type[Config] = entry.obj.Config
    layers = {
        name: {key: value for layer in file.profile_layers(name, "", "").values() for key, value in layer.items()}
        for name in file.profiles
    }
    yield "## Settings"
    if not schema.model_fields:
        yield "There are none."
        return
    if (about := _prose(schema)) != "Settings.":
        yield about
    meanings = _meanings(schema)
    rows = []
    for name, field in schema.model_fields.items():
        default = file.hparams.get(name, field.get_default(call_default_factory=True))
        values = [_value(layer.get(name, default)) for layer in layers.values()] or [_value(default)]
        rows.append([f"`{name}`", *values, meanings.get(name, "")])
    yield table(["setting", *(layers or ["default"]), "meaning"], rows)
    if comment := _comment(entry.config_file):
        yield f"How they were chosen: {comment}"
    for profile, layer in file.profiles.items():
        if layer.datasets:
            yield f"Profile `{profile}`, by data set:"
            yield table(["data set", "settings"], [[f"`{name}`", _assigned(of)] for name, of in layer.datasets.items()])
    if file.losses:
        yield "With some losses:"
        yield table(
            ["loss", "settings", "the loss's own"],
            [[f"`{name}`", _assigned(of.hparams), _assigned(of.parameters)] for name, of in file.losses.items()],
        )


def _meanings(schema: type[Config]) -> dict[str, str]:
    """What the settings mean, as the classes say that define them."""
    return {
        attribute.name: " ".join(attribute.description.split())
        for base in reversed(schema.__mro__)
        if issubclass(base, Config)
        for section in _sections(base)
        if section.kind.value == "attributes"
        for attribute in section.value
    }


def _search(ranges: Mapping[str, Range]) -> Iterator[str]:
    if ranges:
        yield "## Ranges of the search"
        yield table(["setting", "range"], [[f"`{name}`", _range(of)] for name, of in ranges.items()])


def _range(of: Range) -> str:
    if of.choices is not None:
        return ", ".join(map(_value, of.choices))
    return f"{of.low:g} to {of.high:g}" + (", logarithmic" if of.log else "")


def _published(figures: Sequence[Published]) -> Iterator[str]:
    """Figures of papers, which are shown beside ours and never used to tune."""
    if not figures:
        return
    yield "## Published figures"
    for one in figures:
        note = f" {one.note[:1].upper()}{one.note[1:]}." if one.note else ""
        yield f"{one.source}. Features: `{one.features}`; {one.status}.{note}"
        measures = dict.fromkeys(name for result in one.results.values() for name in result)
        yield table(
            ["data set", *measures],
            [[name, *(_figure(result.get(measure)) for measure in measures)] for name, result in one.results.items()],
        )


def _figure(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def _assigned(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`: {_value(value)}" for name, value in values.items()) or NOTHING


def _value(value: object) -> str:
    if isinstance(value, Config):
        value = value.model_dump()
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value if isinstance(value, str) else json.dumps(value, default=str)}`"


def _comment(file: Path) -> str:
    """What stands above the settings in a YAML file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    head = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:head])


def _place(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def _markdown(text: str) -> str:
    """Docstrings are Markdown but for simple tables, whose rulers are equals signs."""
    ruler = r"=+(?: +=+)+"
    return re.sub(rf"^{ruler}\n(.*?)\n{ruler}\n(.*?)\n{ruler}$", _simple_table, text, flags=re.MULTILINE | re.DOTALL)


def _simple_table(found: re.Match[str]) -> str:
    ruler = found[0].partition("\n")[0]
    columns = [match.span() for match in re.finditer("=+", ruler)]
    ends = [start for start, _ in columns[1:]] + [None]

    def cells(line: str) -> list[str]:
        return [line[start:end].strip() for (start, _), end in zip(columns, ends, strict=True)]

    rows: list[list[str]] = []
    for line in found[2].split("\n"):
        first, *others = cells(line)
        if first or not rows:
            rows.append([first, *others])
        else:  # a cell that goes on
            rows[-1] = [f"{above} {more}".strip() for above, more in zip(rows[-1], [first, *others], strict=True)]
    return table(cells(found[1]), rows)
