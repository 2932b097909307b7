"""The picture of how a sample is made."""

import numpy as np
import pytest

from mnist1d.analysis.construction import draw_construction, save_construction
from mnist1d.data.arguments import Arguments
from mnist1d.data.generator import dilations, draw, transform
from mnist1d.data.templates import get_templates


def curves(ax):
    return [line.get_xdata() for line in ax.lines if len(line.get_xdata()) > 2]


def test_the_last_column_shows_what_the_generator_makes():
    figure = draw_construction((3, 7), {"seed": 5})
    args, labels = Arguments(seed=5), np.array([3, 7])
    draws = draw(np.random.RandomState(5), 2, args)
    made = transform(dilations(get_templates()["x"], args), labels, draws, args)
    axes = np.reshape(figure.axes, (2, -1))
    for row in range(2):
        assert np.array_equal(curves(axes[row, -1])[0], made.resampled[row])


def test_a_row_for_each_digit_and_a_title_for_each_step():
    figure = draw_construction((0, 1, 2, 9))
    axes = np.reshape(figure.axes, (4, -1))
    assert [ax.get_title().strip() for ax in axes[0]] == [
        *("template", "pad", "scale", "translate"),
        *("smooth noise", "white noise", "shear", "resample"),
    ]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["0", "1", "2", "9"]
    assert "seed 42" in figure.get_supxlabel()


@pytest.mark.parametrize("digits", [(), (3, 10)])
def test_digits_that_do_not_exist_are_refused(digits):
    with pytest.raises(ValueError, match=r"^digits="):
        draw_construction(digits)


def test_both_files_are_written_and_the_drawing_is_the_same_every_time(tmp_path):
    first, second = save_construction(tmp_path / "a"), save_construction(tmp_path / "b")
    assert [file.name for file in first] == ["construction.svg", "construction.png"]
    assert first[0].read_bytes() == second[0].read_bytes()
