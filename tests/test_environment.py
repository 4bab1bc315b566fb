"""conda and venv install the same versions, and the lock covers what is declared."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def locked() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = list(project["dependencies"])
    for extra in (
        "dev",
        "bench",
        "openi",
        "peers",
        "explore",
    ):  # `dicom` is GPL-licensed and left to the user
        names += extras[extra]
    return [Requirement(name) for name in names]


def test_conda_installs_the_lock_and_the_same_extras_as_the_plain_environment():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (by_pip,) = (entry["pip"] for entry in conda if isinstance(entry, dict))
    makefile = (ROOT / "Makefile").read_text()
    assert by_pip[0] == "-r requirements.lock" and "-r requirements.lock" in makefile
    (extras,) = re.findall(r"-e '(\.\[.*?\])'", makefile)
    assert by_pip[1:] == [f"-e {extras}"]
    assert "python=3.11" in conda and "Python 3.11" in (ROOT / "requirements.lock").read_text()


def test_every_declared_package_is_pinned_to_an_allowed_version():
    pins = locked()
    for requirement in declared():
        (specifier,) = pins[canonicalize_name(requirement.name)].specifier
        assert specifier.operator == "=="
        assert requirement.specifier.contains(specifier.version)


def test_the_lock_is_skipped_on_untested_platforms():
    for pin in locked().values():
        assert pin.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"})
        assert not pin.marker.evaluate({"sys_platform": "darwin", "platform_machine": "arm64"})
        assert not pin.marker.evaluate({"sys_platform": "linux", "platform_machine": "aarch64"})
