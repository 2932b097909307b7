"""Write a variant of MNIST-1D to a new folder, with a data card.

    python -m mnist1d.data export --format npz --output DIR                     # the frozen data set
    python -m mnist1d.data export --format hf --output DIR num_samples=50000 seed=7 iid_noise_scale=0.1
    python -m mnist1d.data export --format csv --output DIR label_noise=0.15 val_split=0.1 padding=[30,60]

Exit status: 0 written, 1 the folder cannot be written, 2 the command line is wrong.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mnist1d.data.arguments import Arguments
from mnist1d.data.export import FORMATS, Variant, export
from mnist1d.data.splits import Recipe
from mnist1d.spelling import nearest, spelled

ARGUMENTS = [f.name for kind in (Arguments, Recipe) for f in fields(kind) if f.name != "arguments"]
SWITCHES = ("shuffle_seq", "shuffle_features")


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name); the exit status."""
    options, unknown = parser().parse_known_args(argv)
    words = [*options.arguments, *unknown]
    arguments = dict(map(_value, filter(_is_known, words)))
    faults = [_unknown(word) for word in words if not _is_known(word)] + list(_impossible(arguments))
    try:
        variant = Variant.of(Recipe.named({} if faults else arguments))
    except ValueError as error:  # each value is fine, but not all of them together
        faults = [str(error)]
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 2
    try:
        written = export(variant, options.format, Path(options.output))
    except OSError as error:
        print(f"--output: {error}", file=sys.stderr)
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
    return bool(equals) and key in ARGUMENTS


def _value(word: str) -> tuple[str, Any]:
    """`padding=[30,60]` as a key and its value, read as in a YAML file of conf/."""
    ((key, value),) = OmegaConf.to_container(OmegaConf.from_dotlist([word])).items()  # type: ignore[union-attr]
    return str(key), value


def _unknown(word: str) -> str:
    key = word.lstrip("-").partition("=")[0].removeprefix("data.")
    if key in ARGUMENTS:
        return f"{word}: must be written as {key}=VALUE"
    close = nearest(key, ARGUMENTS)
    return f"{word}: no such argument; " + (
        f"nearest: {', '.join(close)}" if close else f"allowed: {', '.join(ARGUMENTS)}"
    )


def _impossible(arguments: dict[str, Any]) -> Iterator[str]:
    """Faults of each value by itself."""
    for key, value in arguments.items():
        if key in SWITCHES and not isinstance(value, bool):
            yield f"{key}={spelled(value)}: must be true or false"
        try:
            Recipe.named({key: value})
        except ValueError as error:
            yield str(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
