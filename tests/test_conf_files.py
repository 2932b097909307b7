"""Every YAML in conf/ is found by listing, explained line by line, and accepted by the schema."""

import re
from pathlib import Path

import pytest
import yaml

from mnist1d.compose import Composer
from mnist1d.config.schema import SGD, Adam, Images, Model, RMSprop, Run, Signals, Tracking, Trainer
from mnist1d.config.tasks import Task
from mnist1d.config.validate import schema_keys, validate
from mnist1d.models.make import make_model

CONF = Path(__file__).resolve().parents[1] / "conf"
READ_BY_ANALYSIS = {*CONF.glob("claim/*.yaml"), *CONF.glob("page/*.yaml")}
FILES = sorted(set(CONF.rglob("*.yaml")) - READ_BY_ANALYSIS)
GROUPS = [file for file in FILES if file.parent != CONF]


NEEDS = {
    "task=contrastive": ["model=cnn"],
    "task=metalearn_activation": ["model=shallow", "optimizer=rmsprop"],
    "task=metalearn_lr": ["model=shallow", "optimizer=sgd", "optimizer.momentum=0"],
}
"""Option -> what it takes beside it."""


def name(file: Path) -> str:
    return str(file.relative_to(CONF))


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer.of(CONF)


def test_no_file_is_overlooked() -> None:
    folders = ("model", "data", "optimizer", "experiment")
    counts = {folder: len(list((CONF / folder).glob("*.yaml"))) for folder in folders}
    assert counts["model"] >= 4
    assert counts["data"] >= 6
    assert counts["optimizer"] >= 3
    assert counts["experiment"] >= 1
    assert len(FILES) >= 11
    assert not list(CONF.rglob("*.yml")), "Hydra reads .yaml only"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_key_has_a_comment(file: Path) -> None:
    inside_text = False
    for number, line in enumerate(file.read_text().splitlines(), 1):
        content = line.strip()
        if inside_text and (not content or line.startswith("      ")):
            continue
        inside_text = bool(re.search(r": \|-?  #", line))
        is_key = re.match(r"(- )?[\w.@/ ]+:( |$)", content)
        assert not is_key or "  # " in line, f"{name(file)}:{number} has no comment: {line}"


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name != "experiment"], ids=name)
def test_every_file_opens_with_what_it_is(file: Path) -> None:
    assert re.match(r"# [A-Z].{15,}\.", file.read_text().splitlines()[0])


@pytest.mark.parametrize("file", GROUPS, ids=name)
def test_every_option_composes_and_passes_the_schema(file: Path, composer: Composer) -> None:
    choice = f"{file.parent.relative_to(CONF)}={file.stem}"
    base = composer.base("config", [choice, *NEEDS.get(choice, ())])
    run = validate(base.resolved, base.raw["model"])
    section = base.raw.get(file.parent.name)
    if isinstance(section, dict) and "name" in section:
        assert section["name"] == file.stem
    assert set(run.flat()) == {k for k in base.keys if not k.startswith(("tracking", "profiles", "force", "plan"))}


def test_schema_and_files_have_the_same_keys(composer: Composer) -> None:
    in_files = {key for file in GROUPS for key in composer.base("config", [f"{file.parent.name}={file.stem}"]).keys}
    in_files = {"profiles" if key.startswith("profiles.") else key for key in in_files}
    assert in_files == set(schema_keys())


def test_every_key_is_described_in_the_schema() -> None:
    for section in (Run, *Task.__subclasses__(), Signals, Images, Model, Adam, SGD, RMSprop, Trainer, Tracking):
        for key, field in section.model_fields.items():
            assert field.description or key in ("task", "model", "data", "optimizer", "trainer", "tracking"), (
                section,
                key,
            )


EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_an_experiment_is_a_lab_note(file: Path) -> None:
    text = file.read_text()
    for heading in ("Claim", "Paper", "Command", "Seeds", "Time"):
        assert re.search(rf"^# {heading} ", text, re.MULTILINE), heading
    assert f"experiment={file.stem}" in text
    values = yaml.safe_load(text)
    assert values["experiment"] == file.stem
    assert set(values["profiles"]) == {"smoke", "quick", "paper"}


@pytest.mark.parametrize("profile", ["smoke", "quick", "paper"])
@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_an_experiment_composes_in_every_profile(file: Path, profile: str, composer: Composer) -> None:
    base = composer.base("config", [f"experiment={file.stem}"])
    run = validate(base.values({"profile": profile}), base.raw["model"])
    assert run.trainer.max_steps == run.profiles[profile]["max_steps"]


def test_a_models_yaml_reaches_its_documented_size(composer: Composer) -> None:
    """The numbers in the files' first lines, counted from their keys."""
    sizes = {}
    for option in ("logistic", "mlp", "cnn", "gru", "shallow"):
        first_line = (CONF / "model" / f"{option}.yaml").read_text().splitlines()[0]
        sizes[option] = int(re.search(r"([\d,]+) parameters", first_line)[1].replace(",", ""))  # type: ignore[index]
    hidden = composer.base("config", ["model=mlp"]).raw["model"]["hidden"]
    channels = composer.base("config", ["model=cnn"]).raw["model"]["channels"]
    assert sizes["logistic"] == 41 * 10
    assert sizes["mlp"] == hidden**2 + 52 * hidden + 10
    assert sizes["cnn"] == 6 * channels**2 + 58 * channels + 10
    assert sizes["gru"] == 5134
    assert sizes["shallow"] == 2560


@pytest.mark.parametrize("option", ["resnet", "tcn", "dilated_cnn", "attention"])
def test_a_later_models_yaml_reaches_its_documented_size(option: str, composer: Composer) -> None:
    base = composer.base("config", [f"model={option}"])
    first_line = (CONF / "model" / f"{option}.yaml").read_text().splitlines()[0]
    model = make_model(validate(base.resolved, base.raw["model"]).model)
    count = sum(p.numel() for p in model.parameters())
    assert f" {count:,} parameters" in first_line
