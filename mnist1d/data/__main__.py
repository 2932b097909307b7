"""Write a variant of MNIST-1D to a new folder, with a data card.

    python -m mnist1d.data export --format npz --output DIR                     # the frozen data set
    python -m mnist1d.data export --format hf --output DIR num_samples=50000 seed=7 iid_noise_scale=0.1
    python -m mnist1d.data export --format csv --output DIR label_noise=0.15 val_split=0.1 padding=[30,60]

Exit status: 0 written, 1 the folder cannot be written, 2 the command line is wrong.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist1d.config.command import contradictions, read
from mnist1d.config.faults import ConfigError, Conflict, Fault
from mnist1d.config.limits import too_large_data
from mnist1d.config.schema import Signals
from mnist1d.config.validate import validate_data
from mnist1d.data.export import FORMATS, Variant, export
from mnist1d.data.splits import Recipe
from mnist1d.spelling import nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

DEFAULTS = Recipe().values
WALK = {"batch_size": 1, "batch_order": "sequential", "stream": False}
"""Keys of a data section that say nothing of the data themselves."""


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name); the exit status."""
    options, unknown = parser().parse_known_args(argv)
    words = [*options.arguments, *unknown]
    overrides, unreadable = read(filter(_is_known, words))
    arguments = {override.key_or_group: _value(override) for override in overrides}
    told = [_unknown(word) for word in words if not _is_known(word)]
    told += [f"{fault.given}: {fault.problem}" for fault in unreadable]
    told += [str(_bare(fault)) for fault in (*contradictions(overrides), *_impossible(arguments))]
    if told:
        print("\n".join(told), file=sys.stderr)
        return 2
    variant = Variant.of(Recipe.named(arguments))
    try:
        written = export(variant, options.format, Path(options.output))
    except OSError as error:
        where = error.filename if isinstance(error, FileExistsError) else options.output  # else it may be a hidden name
        print(f"--output: {where}: {error.strerror or error}", file=sys.stderr)
        return 1
    print("\n".join(f"written: {path}" for path in written))
    return 0


def parser() -> ArgumentParser:
    """What the command takes."""
    made = ArgumentParser("python -m mnist1d.data", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    command = made.add_subparsers(required=True, metavar="export").add_parser("export", allow_abbrev=False)
    command.add_argument("--format", required=True, choices=FORMATS, help="hf: as the Hugging Face hub has data sets")
    command.add_argument("--output", required=True, metavar="DIR", help="a folder that does not exist or is empty")
    text = "arguments of the data set, as in conf/data/mnist1d.yaml"
    command.add_argument("arguments", nargs="*", metavar="KEY=VALUE", help=text)
    return made


def _is_known(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and key in DEFAULTS


def _value(override: "Override") -> Any:
    """As train.py reads it; several values, which make no data set, as the text that they are."""
    return str(override.input_line).partition("=")[2] if override.is_sweep_override() else override.value()


def _unknown(word: str) -> str:
    key = word.lstrip("-").partition("=")[0].removeprefix("data.")
    if key in DEFAULTS:
        return f"{word}: must be written as {key}=VALUE"
    close = nearest(key, DEFAULTS)
    return f"{word}: no such argument; " + (
        f"nearest: {', '.join(close)}" if close else f"allowed: {', '.join(DEFAULTS)}"
    )


def _impossible(arguments: dict[str, Any]) -> Iterator[Fault]:
    """Faults of each value by itself, then of the sound ones together: train.py's own."""
    faults = _faults(arguments)
    yield from faults
    if any(not isinstance(fault, Conflict) for fault in faults):
        faulty = {fault.key for fault in faults}
        yield from _faults({key: value for key, value in arguments.items() if f"data.{key}" not in faulty})


def _faults(arguments: dict[str, Any]) -> list[Fault]:
    try:
        data = validate_data({"name": "mnist1d", **DEFAULTS, **WALK, **arguments})
    except ConfigError as error:
        return error.faults
    assert isinstance(data, Signals)
    return list(too_large_data(data))


def _bare(fault: Fault) -> Fault:
    """With keys as they are typed here."""
    return replace(fault, key=fault.key.removeprefix("data."), problem=fault.problem.replace("data.", ""))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
