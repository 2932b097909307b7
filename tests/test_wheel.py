"""The wheel, built and installed for real into an environment that has numpy and scipy, and nothing else."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import scipy

from mnist1d.data import get_dataset_args, make_dataset
from tests.conftest import ROOT

SOURCES = ("mnist1d", "hydra_plugins", "pyproject.toml", "README.md", "LICENSE")
DATA = {".css", ".mplstyle"}
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONFIG_FILE": os.devnull}


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """What a command prints, run in `folder` with nothing of ours on its import path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | OFFLINE | environment
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a folder beside the sources, and takes files from an old one."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for path in (ROOT / name for name in SOURCES):
        if path.is_dir():
            shutil.copytree(path, sources / path.name)
        else:
            shutil.copy(path, sources)
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources)
    run(sys.executable, "-m", "pip", *build, folder=folder)
    (file,) = folder.glob("mnist1d_lab-*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel, numpy and scipy."""
    home = tmp_path_factory.mktemp("empty")
    venv.create(home, with_pip=False, symlinks=True)
    packages = site_packages(home / "bin" / "python")
    for library in (np, scipy):
        source = Path(str(library.__file__)).parent
        for part in (source, source.with_name(f"{source.name}.libs")):
            if part.exists():
                (packages / part.name).symlink_to(part)
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python")
    run(*pip, "install", "--quiet", "--no-deps", wheel, folder=home)
    return home / "bin" / "python"


def site_packages(python: Path) -> Path:
    return next((python.parents[1] / "lib").glob("python3*")) / "site-packages"


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if ".dist-info/" not in name}
    files = [path for top in ("mnist1d", "hydra_plugins") for path in (ROOT / top).rglob("*")]
    assert held == {str(path.relative_to(ROOT)) for path in files if path.suffix in {".py", *DATA}}
    assert "mnist1d/data/__main__.py" in held
    assert "mnist1d/analysis/lab.mplstyle" in held


EXAMPLE = """
from mnist1d.data import make_dataset, get_dataset_args
defaults = get_dataset_args()
data = make_dataset(defaults)
x, y, t = data['x'], data['y'], data['t']
"""


def test_the_published_packages_own_example_runs_in_an_empty_environment(python: Path, tmp_path: Path) -> None:
    where = "import mnist1d, sys; print(mnist1d.__file__, {'torch', 'pydantic', 'requests'} & set(sys.modules))"
    save = f"import numpy; numpy.savez({str(tmp_path / 'out.npz')!r}, x=x, y=y, t=t, x_test=data['x_test'])"
    told = run(python, "-c", f"{EXAMPLE}\n{where}\n{save}", folder=tmp_path)
    assert told.split() == [str(site_packages(python) / "mnist1d" / "__init__.py"), "set()"]
    ours = make_dataset(get_dataset_args())
    with np.load(tmp_path / "out.npz") as data:
        assert all(np.array_equal(data[key], ours[key]) for key in data)


def test_the_package_itself_has_the_published_names(python: Path, tmp_path: Path) -> None:
    code = """
import mnist1d
args = mnist1d.get_dataset_args()
args.num_samples = 100
data = mnist1d.get_dataset(args, path="./mnist1d_data.npz", download=False)
assert data["x"].shape == (80, 40) and data["templates"]["x"].shape == mnist1d.get_templates()["x"].shape
try:
    mnist1d.nothing
except AttributeError as error:
    print(error)
"""
    told = run(python, "-c", code, folder=tmp_path).splitlines()
    assert told == [
        "MNIST-1D: made and kept in mnist1d_data.npz",
        "module 'mnist1d' has no attribute 'nothing'",
    ]


def test_every_module_of_the_wheel_can_be_imported_far_from_the_sources(python: Path, tmp_path: Path) -> None:
    """With the dependencies of the environment that runs the tests."""
    code = """
import importlib, pkgutil, mnist1d, hydra_plugins.mnist1d_stack
names = [m.name for m in pkgutil.walk_packages(mnist1d.__path__, "mnist1d.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names), mnist1d.__file__)
"""
    count, file = run(sys.executable, "-c", code, folder=tmp_path, PYTHONPATH=str(site_packages(python))).split()
    assert int(count) > 70
    assert file == str(site_packages(python) / "mnist1d" / "__init__.py")
