"""What tests look up on the page of an experiment."""

from matplotlib.figure import Figure

from mnist1d.analysis.page import Page


def cell(page: Page, table: int, row: str, column: str) -> str:
    """What stands in a row, by the text of its first cell, and a column, by its head."""
    part = page.tables[table]
    return next(dict(zip(part.columns, cells, strict=True))[column] for cells in part.rows if cells[0] == row)


def picture(page: Page, name: str) -> Figure:
    """The figure of that name."""
    return next(each.figure for each in page.pictures if each.name == name)
