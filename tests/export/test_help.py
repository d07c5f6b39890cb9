"""--help and the man pages say the same: every option that one has, with its short form and its
argument, the other has too; every command has a page, and every page belongs to a program. Finds
commands and pages by itself. Needs man (man-db) and groff for their own opinion of the pages."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from support import BUILD, PROGRAM, main, test

TOP = Path(os.environ.get("TP_TEST_SRCDIR") or Path(__file__).resolve().parents[2]).resolve()
PAGES = TOP / "man"
OPTION = re.compile(r"^  (?:-(.), |    )--([a-z0-9-]+)(\[?=\S+)?(?: |$)", re.MULTILINE)
# Described once for all commands, in tensorport(1) and tpinfer(1).
COMMON = {("h", "help", ""), ("V", "version", "")}
COMMANDERS = {"tensorport": PROGRAM, "tpinfer": BUILD / "tpinfer"}  # programs that have commands


def commands(name):
    """Of a program: {command: summary}"""
    return dict(re.findall(r"^  ([a-z][a-z0-9-]*) +(\S.*)", help_text(COMMANDERS[name]), re.MULTILINE))


def help_text(*command):
    done = subprocess.run([*map(str, command), "--help"], capture_output=True, text=True, check=True,
                          stdin=subprocess.DEVNULL)
    assert not done.stderr
    return done.stdout


def programs():
    """(name, command, page) of each."""
    mount = BUILD / "tensorport-mount"
    return [("tensorport-mount", [mount], PAGES / "tensorport-mount.8"),
            *((f"{program}-{name}", [path, name], PAGES / f"{program}-{name}.1")
              for program, path in COMMANDERS.items() for name in commands(program))]


# ---------------------------------------------------------------- roff, as far as pages use it

def words_of_macro(line):
    return [word[1:-1] if word.startswith('"') else word
            for word in re.findall(r'"[^"]*"?|[^" ]+', line)]


def unformat(text):
    """Without escapes: \\-, \\fB, \\&, \\|, \\(dq."""
    text = re.sub(r"\\f(?:\(..|\[[^]]*\]|.)", "", text).replace(r"\(dq", '"').replace(r"\-", "-")
    return re.sub(r"\\[&|,/^]", "", text).replace(r"\e", "\\")


def plain(line):
    """The text of a line, with or without a font macro; None for another macro."""
    macro = re.match(r"\.(B|I|BR|RB|IR|RI|BI|IB)\s+(.*)", line)
    if macro:
        joint = " " if len(macro[1]) == 1 else ""
        return unformat(joint.join(words_of_macro(macro[2])))
    return None if line.startswith((".", "'")) else unformat(line)


def section(page, title):
    match = re.search(rf"^\.SH {title}\n(.*?)(?=^\.SH |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def tags(text):
    """What stands at the left of each paragraph with a tag."""
    lines = text.splitlines()
    return [plain(lines[i + 1]) for i, line in enumerate(lines) if line.startswith(".TP")]


def options_of_page(page):
    found = set()
    for tag in tags(section(page, "OPTIONS")):
        match = re.fullmatch(r"(?:-(.), )?--([a-z0-9-]+)(\[?=\S+)?", tag or "")
        assert match, f"{page.name}: not understood as an option: {tag!r}"
        option = (match[1] or "", match[2], match[3] or "")
        assert option not in found, f"{page.name}: twice: {tag}"
        found.add(option)
    return found


# ---------------------------------------------------------------- tests

@test
def help_and_pages_have_the_same_options():
    faults = []
    for name, command, page in programs():
        if not page.exists():
            faults.append(f"{name} has no page {page.name}")
            continue
        said, written = set(OPTION.findall(help_text(*command))), options_of_page(page)
        assert COMMON <= said and len(said) == len(re.findall("^ {2,6}-", help_text(*command), re.M))
        if name == "tensorport-mount":
            assert COMMON <= written
        faults += [f"{page.name} lacks --{long}, which '{name} --help' has: {(short, long, argument)}"
                   for short, long, argument in sorted(said - written - COMMON)]
        faults += [f"'{name} --help' lacks --{long}, which {page.name} has: {(short, long, argument)}"
                   for short, long, argument in sorted(written - said)]
    assert not faults, "\n" + "\n".join(faults)


@test
def pages_have_the_arguments_of_help():
    faults = []
    for name, command, page in programs():
        usage = help_text(*command).splitlines()[0].split("[OPTION...]")[1]
        wanted = set(re.findall(r"[A-Z]{2,}", usage))
        text = " ".join(filter(None, map(plain, section(page, "SYNOPSIS").splitlines())))
        found = set(re.findall(r"[A-Z]{2,}", text)) - {"OPTION"}
        if wanted != found:
            faults.append(f"{page.name}: SYNOPSIS has {sorted(found)}, --help has {sorted(wanted)}")
    assert not faults, "\n" + "\n".join(faults)


@test
def every_page_belongs_to_a_program():
    known = {page.name for _, _, page in programs()} | {f"{name}.1" for name in COMMANDERS}
    faults = [f"{page.name} describes no command" for page in sorted(PAGES.glob("*.[18]"))
              if page.name not in known]
    listed = re.findall(r"man/(\S+\.\d)", (PAGES / "local.mk").read_text())
    faults += [f"{page.name} is not in man/local.mk" for page in sorted(PAGES.glob("*.[0-9]"))
               if page.name not in listed]
    assert not faults, "\n" + "\n".join(faults)


@test
def overviews_list_every_command():
    """With the summary that --help has."""
    for program in COMMANDERS:
        page = PAGES / f"{program}.1"
        text = section(page, "COMMANDS")
        wanted = [f"{name}: {program}-{name}(1)" for name in commands(program)]
        assert tags(text) == wanted, f"expected in this order: {wanted}; found: {tags(text)}"
        for name, summary in commands(program).items():
            assert f"{summary[0].upper()}{summary[1:]}." in unformat(text), f"{page.name} says something else: {summary}"
    assert COMMON == options_of_page(PAGES / "tensorport.1")


@test
def titles_and_references_are_right():
    for page in sorted(PAGES.glob("*.[0-9]")):
        text = page.read_text()
        name, number = page.name.rsplit(".", 1)
        assert text.startswith(f".TH {name.upper()} {number} "), page.name
        assert re.search(rf"^\.SH NAME\n{re.escape(name)} \\- [a-z]", text, re.MULTILINE), page.name
        for other, other_number in re.findall(r"^\.BR ((?:tensorport|tpinfer)[a-z-]*) \((\d)\)", text, re.MULTILINE):
            assert (PAGES / f"{other}.{other_number}").exists(), f"{page.name}: no page {other}({other_number})"


@test
def groff_has_no_complaint():
    assert shutil.which("groff") and shutil.which("man"), "no groff or no man: install man-db"
    for page in sorted(PAGES.glob("*.[0-9]")):
        for command in (["groff", "-man", "-ww", "-Tutf8", "-z", page],
                        ["man", "--warnings=all", "--encoding=UTF-8", "--local-file", page]):
            done = subprocess.run(command, capture_output=True, text=True, check=True,
                                  env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"})
            assert not done.stderr, done.stderr


@test
def help_fits_a_terminal():
    for _, command, _ in programs():
        for line in help_text(*command).splitlines():
            assert len(line) <= 100, line


main()
