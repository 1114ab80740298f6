import shlex
import stat
from pathlib import Path

import pytest

from pipelines.doctor.folders import open_folders, site_cache
from tests.pipelines.doctor.conftest import changed, dvc


def test_the_project_s_own_folders_are_closed(finished: Path) -> None:
    changed()  # DVC makes its site cache
    assert [*site_cache(), *open_folders()] == []


def test_a_site_cache_outside_the_project_is_found(finished: Path) -> None:
    dvc("config", "--unset", "core.site_cache_dir")
    (finding,) = site_cache()
    assert finding.remedy == f"dvc config --local core.site_cache_dir '{Path.cwd()}/.triplex/dvc'"
    dvc(*shlex.split(finding.remedy)[1:])
    assert list(site_cache()) == []


@pytest.mark.parametrize(("folder", "mode", "after"), [(".triplex", 0o755, 0o700), (".dvc/cache", 0o777, 0o775)])
def test_an_open_folder_is_closed(finished: Path, folder: str, mode: int, after: int) -> None:
    Path(folder).chmod(mode)
    (finding,) = open_folders()
    assert finding.where == f"{folder} ({mode:04o})"
    assert finding.repair
    finding.repair()
    assert stat.S_IMODE(Path(folder).stat().st_mode) == after
    assert list(open_folders()) == []
