"""Builds the documentation: ``python -m docs.build`` (needs ``pip install -e '.[docs]'``).

The pages of ``docs/``, and one for each method and loss, are laid out in ``build/docs``; Zensical makes a site of them
in ``build/site``, strictly, and what the site links to is looked for. The exit code is 1 where something is amiss.
``python -m docs.build --serve`` shows in a browser what was laid out instead.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from benchmark.files import ROOT
from benchmark.registries import LOSSES, METHODS
from benchmark.registry import Registry
from docs.pages import page

BUILD = ROOT / "build"
PAGES, SITE, CONFIG = BUILD / "docs", BUILD / "site", BUILD / "mkdocs.yml"
#: Folder of the pages -> what they are of; ``<folder>.md`` is the overview, in which names become links.
GENERATED: dict[str, Registry[Any]] = {"methods": METHODS, "losses": LOSSES}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m docs.build", description="Build the documentation strictly.")
    parser.add_argument("--serve", action="store_true", help="show the site in a browser, and stop with Ctrl-C")
    serve = parser.parse_args().serve
    lay_out()
    command = ["serve"] if serve else ["build", "--strict", "--clean"]
    done = subprocess.run([sys.executable, "-m", "zensical", *command, "--config-file", str(CONFIG)], cwd=ROOT)
    broken = [] if serve or done.returncode else list(broken_links(SITE))
    print(*broken, sep="\n", end="\n" if broken else "")
    return 1 if done.returncode or broken else 0


def lay_out() -> None:
    """The pages and the configuration of the site, with what registries know."""
    for old in (PAGES, SITE):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for file in PAGES.rglob("*.md"):
        file.write_text(_with_pictures_of_boards(file.read_text(encoding="utf-8")), encoding="utf-8")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    for folder, registry in GENERATED.items():
        (PAGES / folder).mkdir()
        for entry in registry:
            (PAGES / folder / f"{entry.name}.md").write_text(page(entry), encoding="utf-8")
        overview = PAGES / f"{folder}.md"
        overview.write_text(_linked(overview.read_text(encoding="utf-8"), folder, registry), encoding="utf-8")
        (section,) = [item for item in settings["nav"] if folder.capitalize() in item]
        pages = [{entry.title: f"{folder}/{entry.name}.md"} for entry in registry]
        section[folder.capitalize()] = [*section[folder.capitalize()], *pages]
    CONFIG.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _with_pictures_of_boards(text: str) -> str:
    """``text`` of a page of ``docs/`` with boards' pictures laid out beside it, and links to boards as mere words.

    The boards are no part of the site: they link to every result.
    """
    for name in re.findall(r"!\[[^]]*\]\(\.\./(leaderboards/[^)]+)\)", text):
        place = PAGES / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)
        text = text.replace(f"](../{name})", f"]({name})")
    return re.sub(r"(?<!!)\[([^]]*)\]\(\.\./leaderboards/[^)]+\)", r"\1", text)


def _linked(text: str, folder: str, registry: Registry[Any]) -> str:
    """``text`` with links to the pages of the names in the first cells of its tables."""

    def link(found: re.Match[str]) -> str:
        name = found[1]
        return f"[`{name}`]({folder}/{name}.md)" if name in registry else found[0]

    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.startswith("| `"):
            first, bar, rest = line[2:].partition(" |")
            lines[number] = "| " + re.sub("`([^`]+)`", link, first) + bar + rest
    return "\n".join(lines)


def broken_links(site: Path) -> Iterator[str]:
    """``page: target`` for each link, picture or script of the site that leads to no file or place of it."""
    pages = {file.resolve(): _Page(file) for file in site.rglob("*.html")}
    for file, found in pages.items():
        for target in found.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or file.name == "404.html":
                continue
            path = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            path = path / "index.html" if path.is_dir() else path
            anchor = unquote(parts.fragment)
            if not path.is_file() or (anchor and path in pages and anchor not in pages[path].places):
                yield f"{file.relative_to(site.resolve())}: {target}"


class _Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.targets: dict[str, None] = {}
        self.places = {""}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets[value] = None
            elif name in ("id", "name") and value:
                self.places.add(value)


if __name__ == "__main__":
    sys.exit(main())
