"""A small git and DVC repository with the real graph's shape, a Prefect server, and the command line run in it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dvc.repo import Repo

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300.0

PARAMS = """\
# what the toy stages read
seed: 1   # of every draw
ppo:
  learning_rate: 1e-5  # of Adam
  betas: [0.9, 0.95]
grpo: {learning_rate: 2e-5}
data:
  paths:
    - "a.txt"
    - 'b.txt'
"""

DVC_YAML = """\
stages:
  prepare:
    cmd: python step.py data/prepared.txt
    deps: [step.py]
    params: [seed]
    outs: [data/prepared.txt]
  base:
    cmd: python step.py models/base.txt data/prepared.txt
    deps: [step.py, data/prepared.txt]
    outs: [models/base.txt]
  sft:
    cmd: python step.py models/sft.txt models/base.txt
    deps: [step.py, models/base.txt]
    outs: [models/sft.txt]
  baseline:
    cmd: python step.py data/baselines.txt models/sft.txt
    deps: [step.py, models/sft.txt]
    outs: [data/baselines.txt]
  reward:
    cmd: python step.py models/reward.txt models/base.txt
    deps: [step.py, models/base.txt]
    outs: [models/reward.txt]
  train:
    matrix: {algorithm: [ppo, grpo]}
    cmd: python step.py models/${item.algorithm}.txt models/sft.txt models/reward.txt data/baselines.txt
    deps: [step.py, models/sft.txt, models/reward.txt, data/baselines.txt]
    params: ["${item.algorithm}"]
    outs: ["models/${item.algorithm}.txt"]
  evaluate:
    cmd: python step.py reports/eval.json models/ppo.txt models/grpo.txt
    deps: [step.py, models/ppo.txt, models/grpo.txt]
    outs: [reports/eval.json]
  plot:
    cmd: python step.py reports/plots/curve.png reports/eval.json
    deps: [step.py, reports/eval.json]
    outs: [reports/plots, reports/index.html]
"""

#: writes its first argument from params.yaml and the other arguments; marks its start and its end in the file `trace`;
#: fails for a name written in the file `fail`; where there is a file `meet`, ppo and grpo wait for each other
STEP = """\
import atexit, base64, hashlib, json, sys, time
from pathlib import Path

def trace(text):
    with open("trace", "a") as file:
        file.write(text)

out, *inputs = map(Path, sys.argv[1:])
trace("+")
atexit.register(trace, "-")
print("writing", out)
print("step 1/2  0:00:09 left  reward 0.5")
if Path("meet").exists() and out.stem in ("ppo", "grpo"):
    Path(out.stem).touch()
    while not (Path("ppo").exists() and Path("grpo").exists()):
        time.sleep(0.05)
if Path("fail").exists() and Path("fail").read_text() == out.stem:
    sys.exit("error: no such luck\\n  try again")
digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs) + Path("params.yaml").read_bytes()).hexdigest()
out.parent.mkdir(parents=True, exist_ok=True)
score = {"mean": 0.5, "std": 0.1, "min": 0.0, "max": 1.0, "ci_low": 0.25, "ci_high": 0.75}
model = {"reward": score, "components": {}, "sentiment": 0.625, "distinct_1": 0.1, "distinct_2": 0.2, "vocabulary": 10,
         "repetition": 0.125, "self_bleu": 0.3, "length": 12.0, "kl_nats": 0.0625,
         "perplexity": {"word": 2.0, "phrase": 3.0, "sentence": 4.0}}
gain = {"diff": 0.46, "ci_low": 0.391, "ci_high": 0.53}
if out.suffix == ".json":
    value = {"models": {"sft": model, "ppo": model}, "paired": {"ppo": {"reward": gain}}, "reference": "sft",
             "num_prompts": 8, "confidence": 0.95, "digest": digest}
    out.write_text(json.dumps(value))
elif out.suffix == ".png":
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    out.write_bytes(base64.b64decode(pixel))
    Path("reports/index.html").write_text(digest)
else:
    out.write_text(digest)
"""


def environment(**more: str) -> dict[str, str]:
    """The environment of a subprocess that shall import this repository, without the settings of who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DVC_", "TRIPLEX_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "GIT_CONFIG_NOSYSTEM": "1", **more}


def make_repository(folder: Path, files: dict[str, str]) -> Path:
    """A git and DVC repository with these files and a schema that takes any params.yaml, committed."""
    for name, text in {"params.schema.json": "{}", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / ".gitignore").write_text("/.triplex/\n/pipelines/\n")

    def git(*arguments: str) -> None:
        command = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.org", *arguments]
        subprocess.run(command, cwd=folder, check=True, env=environment(), capture_output=True)

    git("init", "--quiet")
    Repo.init(str(folder)).close()  # as `dvc init`, without a start of Python
    (folder / ".dvc/config").write_text(f"[core]\ncheck_update = false\nsite_cache_dir = {folder}/.dvc/site\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", "toy")
    return folder


def run_pipelines(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """`python -m pipelines ARGUMENTS` in a folder."""
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true value of `condition()`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return value


class Api:
    """A Prefect server's answers about the runs that it has seen."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=60)

    def post(self, path: str, **body: Any) -> Any:
        """The JSON answer to a POST; 503 is the server's word for a database that is busy."""

        def answer() -> httpx.Response | None:
            response = self.client.post(path, json=body)
            return None if response.status_code == 503 else response

        return wait_for(answer).raise_for_status().json()

    def last_run(self) -> dict[str, Any]:
        """The flow run that started last."""
        return self.post("/flow_runs/filter", sort="START_TIME_DESC", limit=1)[0]

    def stages(self, flow_run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The task runs of a flow run by stage; the server writes them a moment after the flow has ended."""
        chosen = {"id": {"any_": [flow_run["id"]]}}

        def final() -> dict[str, dict[str, Any]]:
            runs = self.post("/task_runs/filter", flow_runs=chosen)
            final_types = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
            ended = all(run["state_type"] in final_types for run in runs)
            return {run["name"].split(" (")[0]: run for run in runs} if ended else {}

        return wait_for(final)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    files = {"params.yaml": PARAMS, "dvc.yaml": DVC_YAML, "step.py": STEP}
    return make_repository(folder, files)


@pytest.fixture
def toy(template: Path, tmp_path: Path) -> Path:
    """The nine stages prepare, base, sft, baseline, reward, train@ppo, train@grpo, evaluate, plot."""
    return Path(shutil.copytree(template, tmp_path / "toy"))


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One Prefect server for all tests, on loopback, its data in a temporary folder."""
    from pipelines.guard import Guarded

    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    env = environment(
        PREFECT_HOME=str(folder),
        PREFECT_API_URL=url,
        PREFECT_SERVER_API_PORT=str(port),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY="false",
        DO_NOT_TRACK="1",
    )
    with (folder / "log").open("wb") as log, Guarded(["prefect", "server", "start"], env, stdout=log) as guarded:

        def healthy() -> bool:
            assert guarded.running(), (folder / "log").read_text()
            try:
                return httpx.get(f"{url}/health").status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(healthy)
        yield Api(url)
