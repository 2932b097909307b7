"""The sweep of an experiment: a union of grids, each a product of values, under what is typed beside it.

An experiment of the paper is rarely one product: double descent sweeps the width of an MLP and the channels of
a CNN. Its file names one grid for each; what is typed on the command line holds for all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from hydra.core.override_parser.types import Override

Grid = list[Override]


def union(
    params: Mapping[str, str],
    grids: Mapping[str, Mapping[str, str]],
    typed: Sequence[Override],
    read: Callable[[str], Override],
    is_choice: Callable[[Override], bool],
) -> list[Grid]:
    """The grids of a sweep, each as overrides that may have several values; without any named, one of `params`.

    A typed key replaces the key of `params` and of every grid. A typed group option (`model=mlp`) that a grid
    has fixed chooses among the grids instead: those with another option are left out.

    Args:
        params: key -> values, of every grid (`hydra.sweeper.params`).
        grids: name -> key -> values (`hydra.sweeper.grids`).
        typed: the command line.
        read: parses ``key=values``.
        is_choice: whether an override picks one option of a config group.
    """
    given = {override.get_key_element(): override for override in typed}
    found = []
    for own in grids.values() or [{}]:
        grid = {key: read(f"{key}={values}") for key, values in {**own, **params, **own}.items()}  # seeds vary first
        fixed = {key for key, override in grid.items() if key in given and is_choice(override)}
        if all(_text(grid[key]) in set(_texts(given[key])) for key in fixed):
            kept = [override for key, override in grid.items() if key not in given or key in fixed]
            found.append([*kept, *(override for override in typed if override.get_key_element() not in fixed)])
    return found


def _text(override: Override) -> str:
    return override.get_value_element_as_str()


def _texts(override: Override) -> Iterator[str]:
    return override.sweep_string_iterator() if override.is_sweep_override() else iter([_text(override)])
