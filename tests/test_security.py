"""What must not happen, whoever wrote the files and names: foreign code run, files elsewhere, data sent away."""

import ast
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch

from mnist1d.analysis import weights
from mnist1d.analysis.document import document, escaped
from mnist1d.analysis.page import Table
from mnist1d.data import cache
from mnist1d.data.arguments import Arguments
from mnist1d.tracking import Recorder, TrackingError, find_run, load_weights
from tests.conftest import ROOT
from tests.stores import Store

FOLDERS = ("mnist1d", "hydra_plugins", "bench")
SOURCES = [*ROOT.glob("*.py"), *(file for name in FOLDERS for file in (ROOT / name).rglob("*.py"))]
OWN_BYTES = {"compose.py", *(file.name for file in ROOT.glob("mnist1d/executors/*.py"))}
"""Files that unpickle what this program itself has pickled, in memory or for a process that it started."""


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


# -- nothing is unpickled ---------------------------------------------------------------------------------


def calls(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted names of what a file calls, with the constants among the keywords."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield (
                ast.unparse(node.func),
                {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)},
            )


def test_every_reader_of_files_refuses_code() -> None:
    seen = set()
    for file in SOURCES:
        for name, keywords in calls(file):
            last = name.rpartition(".")[2]
            seen.add(name)
            if name == "torch.load":
                assert keywords.get("weights_only") is True, file
            if name == "np.load":
                assert keywords.get("allow_pickle") is False, file
            if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
                assert file.name in OWN_BYTES, file
            if name.startswith("yaml.") and "load" in last:
                assert last in ("safe_load", "safe_load_all"), file
            if last == "load_from_checkpoint":
                raise AssertionError(file)
            if last == "fit" and "ckpt_path" in keywords:
                assert keywords.get("weights_only") is True, file
            assert name not in ("eval", "exec", "joblib.load", "shelve.open", "marshal.loads", "os.system"), (
                file,
                name,
            )
            assert keywords.get("shell") is not True, file
    assert {"torch.load", "np.load", "pickle.loads"} <= seen, "the search works"


def test_a_weights_file_with_code_is_refused_by_both_readers(tmp_path: Path) -> None:
    file, trap = tmp_path / "weights.pt", tmp_path / "trap"
    torch.save({"state_dict": {"w": Evil(trap)}, "run_id": "x", "config": {}}, file)
    with pytest.raises(TrackingError, match="is not a weights file of a recorded run"):
        find_run(file)
    with pytest.raises(pickle.UnpicklingError, match=r"holds tensors and plain values, no posix\.mkdir"):
        weights.load(str(tmp_path))
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(trap)))
    assert trap.exists(), "the trap works"


def weights_file(folder: Path, rebuilt: tuple[Any, ...]) -> None:
    """A file as torch.save writes it, of one tensor of four numbers that claims to be rebuilt so."""

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (storage, *rebuilt, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if thing is storage else None

    storage, stream = object(), io.BytesIO()
    Pickler(stream, protocol=2).dump({"state_dict": {"w": Tensor()}})
    with zipfile.ZipFile(folder / "weights.pt", "w") as archive:
        archive.writestr("weights/data.pkl", stream.getvalue())
        archive.writestr("weights/data/0", np.arange(4, dtype=np.float32).tobytes())


def test_a_weights_file_cannot_reach_beyond_its_numbers(tmp_path: Path) -> None:
    weights_file(tmp_path, (0, (2, 2), (2, 1)))
    assert weights.load(str(tmp_path))["w"].tolist() == [[0, 1], [2, 3]]
    for rebuilt in ((0, (3, 2), (2, 1)), (1, (4,), (1,)), (0, (2,), (-1,)), (-3, (2,), (1,)), (0, (2, 2), (9**9, 1))):
        weights_file(tmp_path, rebuilt)
        with pytest.raises(pickle.UnpicklingError, match="a tensor reaches beyond its numbers"):
            weights.load(str(tmp_path))
    weights_file(tmp_path, (0, "x", (1,)))
    with pytest.raises(pickle.UnpicklingError, match="is no weights file"):
        weights.load(str(tmp_path))


def test_a_data_cache_with_code_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST1D_CACHE", str(tmp_path / "cache"))
    args, trap = Arguments.of({"num_samples": 50}), tmp_path / "trap"
    file = cache.cache_file(args)
    file.parent.mkdir()
    with file.open("wb") as stream:
        np.savez(stream, digest=np.array([Evil(trap)], dtype=object), x=np.zeros(1))
    assert len(cache.remembered(args).x) == 50
    assert not trap.exists()


# -- nothing is written elsewhere -------------------------------------------------------------------------


class LyingServer(BaseHTTPRequestHandler):
    """An MLflow server that says that weights.pt is a folder, with a file outside of it."""

    def do_GET(self) -> None:
        path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path.endswith("/runs/get"):
            info = {
                "run_id": "r",
                "experiment_id": "0",
                "status": "FINISHED",
                "artifact_uri": "mlflow-artifacts:/0/r/artifacts",
            }
            self._answer(json.dumps({"run": {"info": info, "data": {}}}))
        elif path.endswith("/mlflow-artifacts/artifacts"):
            inside = asked["path"][0].endswith("weights.pt")
            files = [{"path": "../../../evil.txt" if inside else "weights.pt", "is_dir": not inside, "file_size": 4}]
            self._answer(json.dumps({"files": files}))
        else:
            self._answer("evil")

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_server_that_lists_artifacts_elsewhere_cannot_have_them_written_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a" / "b" / "c"))
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), LyingServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(TrackingError, match=r"fetching weights\.pt of run r failed"):
            load_weights("r", f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert not list(tmp_path.rglob("evil*"))


class Config:
    def flat(self) -> dict[str, Any]:
        return {"seed": 0}


def test_names_never_become_paths(database: Store) -> None:
    folder = database.path.parent
    before = {path for path in folder.parent.rglob("*") if folder not in path.parents}
    for name in ("../../evil", "/evil", "..", "<script>evil</script>"):
        recorder = Recorder(database.uri, name)
        run_id = recorder.start(Config(), parent=None, name=name, tags={"mnist1d.sweep": name})
        state = {"w": torch.zeros(1)}
        recorder.finish(run_id, "FINISHED", final={}, reason=None, weights=state, resources={})
        place = Path(urlsplit(recorder.client.get_run(run_id).info.artifact_uri).path)
        assert (place / "weights.pt").is_file()
        assert place == folder / "artifacts" / run_id / "artifacts"
    assert {path for path in folder.parent.rglob("*") if folder not in path.parents} == before


NAMES = (
    "../../evil",
    "<script>alert(1)</script>",
    "a\nb",
    "a | b",
    "![x](../../secret.svg)",
    "[x](https://evil.invalid)",
)


def test_a_report_takes_pictures_from_its_own_folder_only(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    for place in (tmp_path, tmp_path / "report"):
        (place / "figure.svg").write_text("<svg/>")
    assert "data:image/svg+xml" in document("# T\n\n![a](figure.svg)\n", tmp_path / "report")
    for name in ("../figure.svg", str(tmp_path / "figure.svg"), "%2e%2e/figure.svg"):
        with pytest.raises(PermissionError, match=r"is no picture of the report: it lies outside of"):
            document(f"# T\n\n![a]({name})\n", tmp_path / "report")


def test_names_that_users_give_are_text_in_a_report() -> None:
    for name in (*NAMES, "<img src=x onerror=alert(1)>"):
        table = escaped(Table("Models", ("model", "acc"), ((name, "1"),), "note"))
        page = document(f"# T\n\n{table.markdown()}\n", Path())
        body = page.partition("<main>")[2]
        assert "<script" not in body
        assert "<img" not in body
        assert "<a " not in body
        assert body.count("<td") == 2


# -- nothing is sent --------------------------------------------------------------------------------------

TELEMETRY = """
import mnist1d, os
from mlflow.telemetry.client import get_telemetry_client
from mlflow.telemetry.utils import is_telemetry_disabled
print(get_telemetry_client(), is_telemetry_disabled(), os.environ["RAY_USAGE_STATS_ENABLED"])
"""


def test_no_telemetry_even_where_nobody_has_switched_it_off() -> None:
    switches = ("MLFLOW_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "DO_NOT_TRACK", "CI")
    free = {key: value for key, value in os.environ.items() if key not in switches}
    argv = [sys.executable, "-c", TELEMETRY]
    done = subprocess.run(argv, cwd=ROOT, env=free, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "None True 0\n", done.stderr


def test_the_ui_listens_to_this_machine_alone() -> None:
    done = subprocess.run(["make", "--dry-run", "ui"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--host 127.0.0.1 " in done.stdout
