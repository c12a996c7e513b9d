"""What the documents promise is there: files, commands, keys, defaults."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import msgspec
import pytest

from streamer import config

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "streamer/**/*.md", "training/*.md", "deploy/**/*.md", "systemd/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link of a document names a file of the project."""
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(path: Path) -> None:
    """Every `streamer …` and `streamer-train …` in a code block is a command with such options."""
    blocks = [line.strip() for line in path.read_text().splitlines() if line.startswith("    ")]
    for line in blocks:
        match = re.match(
            r"(?:\S*/)?(streamer|streamer-train) ([a-z][a-z-]*)(?: ([a-z]+))?", line.lstrip("$ ")
        )
        if match is None:
            continue
        module = {"streamer": "streamer", "streamer-train": "training"}[match[1]]
        words = [match[2]]
        done = help_of(module, *words)
        assert done.returncode == 0, f"{path.name}: {line}: {done.stderr}"
        shared = re.search(r" cluster .*?(fit|tune) ", line)  # a command within a command
        inner = help_of(module, shared[1]).stdout if shared else ""
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", line.partition("#")[0]):
            deeper = help_of(module, *words, match[3]) if match[3] else done
            assert option in done.stdout + deeper.stdout + inner, f"{path.name}: {line}: {option}"


def help_of(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Return what a command's --help prints."""
    return subprocess.run(
        [sys.executable, "-m", module, *words, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "TERM": "dumb"},
    )


def test_the_commented_configuration_has_every_key_with_its_default() -> None:
    """The manual cannot drift from the program: same keys, same values."""
    text = (ROOT / "deploy" / "streamer.toml").read_text()
    tree = tomllib.loads(text)
    parsed = config.parse(text)
    bare = config.parse(
        f'[[cameras]]\nname = "{parsed.cameras[0].name}"\nurl = "{parsed.cameras[0].url}"\n'
    )
    assert parsed == bare
    for name in config.Config.__struct_fields__:
        section = tree[name][0] if name == "cameras" else tree[name]
        known = config.Camera if name == "cameras" else type(getattr(bare, name))
        assert set(section) == {field.name for field in msgspec.structs.fields(known)}, name


def test_every_package_has_a_reason() -> None:
    """Beside each dependency in pyproject.toml stands why it is there."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    for requirement in wanted:
        lines = [line for line in text.splitlines() if f'"{requirement}"' in line]
        assert lines, requirement
        assert all("#" in line for line in lines), f"no reason beside {requirement}"


def test_the_tests_that_documents_rely_on_are_there() -> None:
    """Where a document says that a test holds what it claims, the test exists."""
    named = {
        match
        for path in DOCUMENTS
        for match in re.findall(r"`(tests/[\w/]+\.py)::(?:\w+::)?(\w+)`", path.read_text())
    }
    assert len(named) > 20
    for file, test in sorted(named):
        assert re.search(rf"(?m)^\s*def {test}\(", (ROOT / file).read_text()), f"{file}::{test}"
