"""What the README names exists: commands, options, files, functions. Quotes: test_example.py."""

from __future__ import annotations

import re
import shlex
from operator import attrgetter

import pytest

import webbridge_restart as script

FOLDER = script.SCRIPT.parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
BLOCK_LINES = re.findall(r"(?m)^ {4,}(\S.*)$", README)
SPANS = [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", README)]
OTHERS_OPTIONS = {"--system", "--home-dir", "--shell", "--bad"}
FORMER_OPTIONS = {"--parallel", "--from-logs"}


def test_each_command_is_one_that_the_script_accepts() -> None:
    found = [
        text.partition("webbridge_restart.py ")[2]
        for text in [*BLOCK_LINES, *SPANS]
        if re.search(r"(python|uv run) webbridge_restart\.py ", text) and "--bad" not in text
    ]
    assert len(found) > 10
    for arguments in found:
        script.parse_options(shlex.split(re.split(r" \|\||\"$", arguments)[0]))


def test_each_option_exists_and_the_former_ones_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.parse_options(["--help"])
    option = r"(?<![\w-])--[a-z][a-z-]+"
    own = set(re.findall(option, capsys.readouterr().out))
    named = set(re.findall(option, " ".join([*BLOCK_LINES, *SPANS])))
    assert len(named & own) > 5
    assert named - own == OTHERS_OPTIONS | FORMER_OPTIONS


def test_files_and_headings_that_are_named_are_there() -> None:
    headings = re.findall(r"(?m)^#+ (.*)$", README)
    anchors = {"#" + re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}
    links = set(re.findall(r"\]\((?!https:)([^)]+)\)", README))
    files = {*links, *re.findall(r"\btests/[\w.]+\w|\brequirements\.txt", README)}
    assert [name for name in files - anchors if not (FOLDER / name).exists()] == []
    assert script.LOG_FILE.name in README


def test_the_update_shows_the_block_to_edit_and_no_more() -> None:
    """sed begins at each line with the first pattern, and ends at a later one with the second."""
    (patterns,) = re.findall(r'sed -n "/(.+?)/,/(.+?)/p"', README)
    lines = script.SCRIPT.read_text(encoding="utf-8").splitlines()
    (begin,), (end, *_) = (
        [number for number, line in enumerate(lines) if re.search(pattern, line)]
        for pattern in patterns
    )
    named = set(re.findall(r"(?m)^[A-Z_]+", "\n".join(lines[begin:end])))
    assert named == set(script.BLOCK)


def test_functions_that_are_to_be_read_are_there() -> None:
    section = README.partition("## Read it before you trust it\n")[2].partition("\n## ")[0]
    names = re.findall(r"`([A-Za-z_.]+)`", section)
    assert len(names) > 5
    assert all(callable(attrgetter(name)(script)) for name in names)


def test_each_command_with_a_new_venv_is_there_for_linux_and_for_windows() -> None:
    linux = re.findall(r"(?m)^ +python3 (-m venv .*)$", README)
    windows = re.findall(r"(?m)^ +py (-m venv .*)$", README)
    assert len(linux) == 3
    assert windows == [line.replace("bin", "Scripts").replace("/", "\\") for line in linux]
