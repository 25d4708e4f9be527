"""What the README quotes and names exists: commands, options, files, words of the script."""

from __future__ import annotations

import ast
import re
import shlex
from operator import attrgetter

import pytest

import webbridge_restart as script
from conftest import STAMP

FOLDER = script.SCRIPT.parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
BLOCK_LINES = re.findall(r"(?m)^ {4,}(\S.*)$", README)
SPANS = [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", README)]
# A line that the script prints or logs, or the beginning of a sentence of it.
PRINTED = re.compile(r"\d{4}-\d\d-\d\d |Server |\d+ \(|\d+ of |Restarted |Leaked: |FULL: ")
QUOTES = [line for line in BLOCK_LINES if PRINTED.match(line)]
QUOTES += [span for span in SPANS if re.match(r"[A-Z][a-z]* ", span) and span != "Edit these"]
# What a server, its log or the inventory puts into a sentence.
VALUES = re.compile(
    r"10\.48\.79\.194|cms2\.example\.com|webbridge_restart\.py|ssh-ed25519 SHA256:\w+|Jun|…"
)
# What the script's strings are made of, between the values; the longest first.
CONSTANTS = [n for n in ast.walk(ast.parse(script.SCRIPT.read_bytes())) if hasattr(n, "value")]
LITERALS = sorted({n.value for n in CONSTANTS if isinstance(n.value, str)}, key=len, reverse=True)
OTHERS_OPTIONS = {"--system", "--home-dir", "--shell", "--bad"}
FORMER_OPTIONS = {"--parallel", "--from-logs"}


def unknown_words(quote: str) -> str:
    """Return what of a quoted line is neither the script's words nor a value."""
    quote = STAMP.sub("", quote)
    if any(quote.strip("… ") in literal for literal in LITERALS):
        return ""
    rest = VALUES.sub("|", quote)
    for words in filter(None, map(str.strip, LITERALS)):
        # Whole words, for a short literal may stand in the middle of another word
        rest = re.sub(rf"(?:(?<!\w)|(?=\W)){re.escape(words)}s?(?!\w)", "|", rest)
    return " ".join(re.findall(r"[A-Za-z]{2,}", rest))


def test_the_script_has_each_quoted_sentence_word_for_word() -> None:
    assert len(QUOTES) > 20
    assert [quote for quote in QUOTES if unknown_words(quote)] == []
    assert unknown_words("Restarting: 0 busy sessions; 152 leaked sessions.") == "busy"


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


def test_the_block_to_edit_stands_between_the_headings_that_the_update_looks_for() -> None:
    block = re.findall(r"(?s)Edit these(.*?)Limits", script.SCRIPT.read_text(encoding="utf-8"))
    assert len(block) == 1
    assert all(name in block[0] for name in ("WEBBRIDGES", "MMP_USERNAME", "CALLBRIDGES"))


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
