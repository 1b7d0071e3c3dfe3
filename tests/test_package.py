"""What a user gets from `pip install alignnet`: a wheel that works away from any checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; it comes with the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*build, "--no-build-isolation", "--wheel-dir", folder, REPOSITORY], check=True)
    return next(folder.glob("alignnet-*.whl"))


def test_the_wheel_holds_the_package_the_configurations_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("alignnet/**/*.py")}
    conf = {f"alignnet/{p.relative_to(REPOSITORY)}" for p in REPOSITORY.glob("conf/**/*.yaml")}
    assert conf
    assert package | conf <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "conf/", "outputs/")) for name in names)


def test_an_installed_wheel_finds_its_own_configurations(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    run = subprocess.run(
        [sys.executable, "-c", "from alignnet.cli.app import CONF; print(CONF)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(run.stdout.strip()) == (tmp_path / "site" / "alignnet" / "conf").resolve()
    assert Path(run.stdout.strip(), "hydra", "help", "alignnet.yaml").is_file()
