"""The manifest of a report: what it was made from and what it is, so that anyone can tell a stale or edited one.

Pictures differ between versions of matplotlib and cannot be compared with newly drawn ones. The manifest holds the
digests of the result files that a report was made from and of the files that it consists of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import InputError, did_you_mean
from benchmark.files import read_bytes, write_whole

NAME = "report.json"
FOLDER = "report"
#: Where pages of kept models go, which no check asks for: models may lie anywhere, and be gone.
MODELS = "models"
COMMAND = "python -m benchmark.report"


def require_runs(results: Path, dataset: str) -> None:
    """Assert that there is something to report.

    Args:
        results: the folder of results.
        dataset: the data set's name.

    Raises:
        InputError: there are no runs of it.
    """
    known = {path.relative_to(results).parts[0] for form in ("*/*/*.json", "*/*.jsonl") for path in results.glob(form)}
    if dataset not in known:
        raise InputError(f"{results}: no runs of {dataset!r}; {did_you_mean(dataset, known)}")


def inputs(results: Path) -> dict[str, str]:
    """``<method>.jsonl`` -> the digest of that file; of runs, ``<method>+<loss>`` -> one digest of all files there.

    Args:
        results: the folder of one data set's results.
    """
    files = {path.name: digest(read_bytes(path)) for path in sorted(results.glob("*.jsonl"))}
    for folder in sorted(results.glob("*")):
        paths = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".jsonl"))
        if paths:
            content = b"".join(f"{path.name} {digest(read_bytes(path))}\n".encode() for path in paths)
            files[folder.name] = digest(content)
    return files


def write(folder: Path, files: Mapping[str, bytes], made_from: Mapping[str, str], arguments: list[str]) -> None:
    """Write a report and its manifest; files of an older one that it no longer has are removed.

    Args:
        folder: where it goes.
        files: relative path -> content.
        made_from: what ``inputs`` said before the results were read.
        arguments: what the command that made it was given.

    Raises:
        InputError: a file is in the way that no report put there, or a file cannot be written.
    """
    manifest = folder / NAME
    older = _load(manifest)["files"] if manifest.exists() else {}
    for name in files:
        if name not in older and (folder / name).exists():
            raise InputError(f"{folder / name}: is of no report and would be overwritten; move or delete it")
    # Without a manifest a report that is cut off halfway is known for one by its check.
    manifest.unlink(missing_ok=True)
    for name, content in files.items():
        write_whole(folder / name, content)
    for name in older.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files are in its folder
            (folder / name).parent.rmdir()
    described = {
        "command": " ".join([COMMAND, *arguments]),
        "inputs": dict(made_from),
        "files": {name: digest(content) for name, content in sorted(files.items())},
    }
    write_whole(manifest, json.dumps(described, indent=1) + "\n")


def check(out: Path) -> list[str]:
    """What is wrong with the reports in ``out``, a line for each file; nothing is written and nothing is drawn.

    Raises:
        InputError: a file cannot be read, or a manifest is none.
    """
    folders = sorted(path for path in (out / FOLDER).glob("*") if path.is_dir())
    return [line for folder in folders for line in _problems(folder, out / "results" / folder.name)]


def _problems(folder: Path, results: Path) -> list[str]:
    again = f"{COMMAND} {folder.name} makes it anew"
    manifest = folder / NAME
    if not manifest.is_file():
        return [f"{folder}: has no {NAME}: unfinished or no report; {again}, or delete it"]
    content = _load(manifest)
    again = f"{content['command']} makes it anew"
    old, new = content["inputs"], inputs(results)
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    lines = []
    if changed:
        named = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        lines.append(f"{folder}: is stale: results of {named} changed since; {again}")
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, expected in content["files"].items():
        if name not in found:
            lines.append(f"{folder / name}: is missing; {again}")
        elif digest(read_bytes(found[name])) != expected:
            lines.append(f"{folder / name}: was edited; {again}")
    strange = found.keys() - content["files"].keys() - {NAME}
    return [*lines, *(f"{folder / name}: is not of this report; move or delete it" for name in sorted(strange))]


def _load(manifest: Path) -> dict[str, Any]:
    problem = InputError(f"{manifest}: must be the manifest of a report; delete it and make the report anew")
    try:
        content: dict[str, Any] = json.loads(read_bytes(manifest))
        whole = isinstance(content["command"], str) and all(
            isinstance(content[key], dict) and all(isinstance(told, str) for told in content[key].values())
            for key in ("inputs", "files")
        )
        inside = all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in content["files"])
    except (ValueError, KeyError, TypeError):
        raise problem from None
    if not (whole and inside):
        raise problem
    return content


def digest(content: bytes) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(content).hexdigest()
