"""README.md and docs/ as tests read them: fenced blocks, the command lines and files in them, and how they are run.

A guide is a page whose blocks build on each other from top to bottom. Its cells are what a notebook made of it has, in
the notation of notebooks: `!` before a command line, `%%writefile` before a file, anything else is Python.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests import programs
from tests.conftest import ROOT

PAGES = tuple(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if ROOT / "docs" / "results" not in path.parents  # which analyze.py writes
)
GUIDES = ("docs/tutorial.md", "docs/extending.md")

SMOKE = ("profile=smoke", "trainer.threads=1")
SHORT = {"trainer.max_steps": "4", "trainer.eval_every": "2", "trainer.threads": "1", "trainer.accelerator": "cpu"}
PROJECT = ("conf", "mnist1d", "hydra_plugins", "train.py", "analyze.py")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^# (at the end of )?([\w/]+\.(?:py|yaml))\b")


@dataclass(frozen=True)
class Block:
    """A fenced block, or (language "") the text between two of them."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its command lines as they are typed, without prompts and output; one that goes on in the next is one line."""
        lines = self.text.replace("\\\n", "").splitlines()
        if self.language == "console":
            return [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip()] if self.language == "bash" else []

    @property
    def file(self) -> tuple[str, bool] | None:
        """The file that it is, named in its first or second line, and whether it goes to the end of one."""
        found = [_FILE.match(line) for line in self.text.splitlines()[:2]]
        return next(((match[2], bool(match[1])) for match in found if match), None)


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text()


def parts(text: str) -> list[Block]:
    """A page cut at its fenced blocks, which are every second part."""
    cut = _FENCED.split(text)
    return [Block("", cut[0])] + [
        block
        for language, inner, after in zip(cut[1::3], cut[2::3], cut[3::3], strict=True)
        for block in (Block(language, inner), Block("", after))
    ]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [block.text for block in parts(text) if block.language == language]


def commands(text: str) -> list[str]:
    """All command lines in fenced blocks, comments taken off."""
    lines = [line for block in parts(text) for line in block.commands]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines]


def spans(text: str) -> list[str]:
    """The command lines within sentences."""
    found = [span for block in parts(text) if not block.language for span in re.findall(r"`([^`]+)`", block.text)]
    return [" ".join(span.split()) for span in found if re.match(r"(make|python|pip|[A-Z_]+=\S+ python) ", span)]


def cell(block: Block) -> str | None:
    """A block of a guide as a cell that can be run; None for what is only read, or typed in a shell of one's own."""
    if block.file:
        path, at_the_end = block.file
        return f"%%writefile {'-a ' * at_the_end}{path}\n{block.text}"
    if block.commands and all(line.startswith("python ") for line in block.commands):
        return "\n".join(f"!{line}" for line in block.commands) + "\n"
    return block.text if block.language == "python" else None


# -- running them -----------------------------------------------------------------------------------------


def shortened(arguments: list[str]) -> list[str]:
    """The same command for a few steps of a few runs; `--cfg` and `--help` as they are.

    Ray and submitit, which tests/test_executors.py starts, are only asked for a plan.
    """
    if any(argument.startswith("--") for argument in arguments):
        return arguments
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("experiment=")]
    if named and (sized(arguments) or (ROOT / "conf" / "experiment" / f"{named[0]}.yaml").exists()):
        return [*(a for a in arguments if not a.startswith("profile=")), *SMOKE]
    if {"hydra.launcher.executor=ray", "hydra.launcher.executor=submitit"} & {*arguments}:
        return [*arguments, "plan=true"]
    kept = [a for a in arguments if a.partition("=")[0] not in SHORT]
    kept = [re.sub(r"range\(\d+\)", "range(2)", argument) for argument in kept]
    return [*kept, *(f"{key}={value}" for key, value in SHORT.items())]


def sized(arguments: list[str]) -> bool:
    """Whether a profile is asked for."""
    return any(argument.startswith("profile=") for argument in arguments)


def run(script: str, arguments: list[str], folder: Path, project: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A program of the project in `folder`, whose modules it finds as well."""
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    env |= {"PYTHONPATH": str(folder), "COLUMNS": "120"}
    return programs.run(str(project / script), *arguments, cwd=folder, env=env)


def copied(folder: Path) -> Path:
    """The project in `folder`, for guides that add files to it."""
    for name in PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


class Reader:
    """Someone who works through the cells of a guide in a folder of their own, in one Python for all of them.

    Attributes:
        printed: standard output of every command so far, by command line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = copied(folder)
        self.printed: dict[str, str] = {}
        self._names: dict[str, object] = {}

    def follow(self, cell: str) -> None:
        """Do what a cell says."""
        first, _, rest = cell.partition("\n")
        if first.startswith("%%writefile "):
            *append, path = first.split()[1:]
            with (self.folder / path).open("a" if append else "x") as file:
                file.write(rest)
        elif first.startswith("!"):
            for line in cell.splitlines():
                self.type(line.removeprefix("!"))
        else:
            exec(compile(cell, "cell", "exec"), self._names)

    def type(self, line: str) -> None:
        """A command line."""
        python, script, *arguments = shlex.split(line, comments=True)
        assert python == "python"
        if script == "train.py":
            arguments = shortened(arguments)
        done = run(script, [re.sub("^profile=.*", "profile=smoke", a) for a in arguments], self.folder, self.folder)
        assert (done.returncode, done.stderr) == (0, ""), line + done.stdout + done.stderr
        self.printed[line] = done.stdout
