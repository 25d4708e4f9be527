"""What the README quotes and names exists: commands, options, files, words of the script."""

from __future__ import annotations

import ast
import re
import shlex
from operator import attrgetter

import pytest

import webbridge_restart as script

FOLDER = script.SCRIPT.parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
BLOCK_LINES = re.findall(r"(?m)^ {4,}(\S.*)$", README)
SPANS = [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", README)]
COMMANDS = [
    re.split(r" \|\||\"$", text.partition("webbridge_restart.py ")[2])[0]
    for text in [*BLOCK_LINES, *SPANS]
    if re.search(r"(python|uv run) webbridge_restart\.py ", text)
]
# A line that the script prints or logs, or the beginning of a sentence of it.
PRINTED = re.compile(r"\d{4}-\d\d-\d\d |Server |\d+ \(|\d+ of |Restarted |Leaked: |FULL: ")
QUOTES = [line for line in BLOCK_LINES if PRINTED.match(line)]
QUOTES += [span for span in SPANS if re.match(r"[A-Z][a-z]* ", span) and span != "Edit these"]
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00 ")
# What a server, its log or the inventory puts into a sentence.
VALUES = re.compile(
    r"10\.48\.79\.194|cms2\.example\.com|webbridge_restart\.py|ssh-ed25519 SHA256:\w+|Jun|…"
)
OTHERS_OPTIONS = {"--system", "--home-dir", "--shell", "--bad"}
FORMER_OPTIONS = {"--parallel", "--from-logs"}


def literals() -> list[str]:
    """Return what the script's strings are made of, between the values; the longest first."""
    nodes = ast.walk(ast.parse(script.SCRIPT.read_bytes()))
    found = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return sorted(found, key=len, reverse=True)


LITERALS = literals()


def unknown_words(quote: str) -> str:
    """Return what of a quoted line is neither the script's words nor a value."""
    quote = STAMP.sub("", quote)
    if any(quote.strip("… ") in literal for literal in LITERALS):
        return ""
    rest = VALUES.sub("|", quote)
    for literal in LITERALS:
        words = re.escape(literal.strip())
        if words:  # whole words, for a short literal may stand in the middle of another word
            rest = re.sub(rf"(?:(?<!\w)|(?=\W)){words}s?(?!\w)", "|", rest)
    return " ".join(re.findall(r"[A-Za-z]{2,}", rest))


@pytest.mark.parametrize("quote", QUOTES)
def test_the_script_has_each_quoted_sentence_word_for_word(quote: str) -> None:
    assert unknown_words(quote) == ""


def test_a_changed_word_in_a_quote_is_seen() -> None:
    assert len(QUOTES) > 20
    assert unknown_words("Restarting: 0 busy sessions; 152 leaked sessions.") == "busy"


@pytest.mark.parametrize("arguments", sorted(set(COMMANDS)))
def test_each_command_is_one_that_the_script_accepts(arguments: str) -> None:
    if "--bad" not in arguments:
        script.parse_options(shlex.split(arguments))


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
    anchors = {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}
    links = re.findall(r"\]\((?!https:)([^)]+)\)", README)
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    files = {link for link in links if not link.startswith("#")}
    files |= set(re.findall(r"\btests/[\w.]+\w|\brequirements\.txt", README))
    assert [name for name in files if not (FOLDER / name).exists()] == []
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


@pytest.mark.parametrize(
    ("requirements", "then"),
    [("requirements.txt", "tests/demo.py"), ("tests/requirements.txt", "-m pytest tests")],
)
def test_commands_of_the_readme_are_there(requirements: str, then: str) -> None:
    """For Linux and for Windows, as .ci/run and .ci/windows run them."""
    rest = f"pip install -q -r {requirements} && .venv/bin/python {then}"
    linux = f"    python3 -m venv .venv && .venv/bin/{rest}"
    windows = linux.replace("python3 -m", "py -m").replace(".venv/bin/", ".venv\\Scripts\\")
    assert {linux, windows.replace("tests/", "tests\\")} <= set(README.splitlines())
