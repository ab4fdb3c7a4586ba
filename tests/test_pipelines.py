"""Container, workflow and hooks: what they name is there."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines() if line.strip()]


def test_the_container_is_slim_and_not_of_root():
    steps = instructions()
    assert steps[0][0] == "FROM" and "-slim" in steps[0][1]
    assert [argument for name, argument in steps if name == "USER"] == ["1000"]
    assert [name for name, _ in steps].index("USER") > max(n for n, (name, _) in enumerate(steps) if name == "RUN")


def test_the_container_copies_what_is_there_and_takes_the_tested_torch():
    steps = instructions()
    for argument in (argument for name, argument in steps if name == "COPY"):
        assert all((ROOT / source).exists() for source in argument.split()[:-1]), argument
    assert f'"torch=={CONSTRAINTS["torch"]}"' in (ROOT / "Dockerfile").read_text()


def test_the_workflow_runs_words_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    jobs = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())["jobs"]
    words = [step["run"].split()[1] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {"check", "test", "docs", "test-slow"} <= set(words)
    assert all(re.search(rf"^{re.escape(word)}:", makefile, re.M) for word in words)


def test_an_image_is_pushed_only_after_it_has_run_the_main_recipe():
    workflow = yaml.safe_load((ROOT / ".github/workflows/image.yml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["image"]["steps"] if "run" in step]
    words = ["docker build", "run fashion_mnist", "docker push"]
    assert [next(n for n, step in enumerate(steps) if word in step) for word in words] == [0, 1, 2]
    assert workflow[True]["push"] == {"tags": ["v*"]}, "YAML 1.1 reads the key `on` as true"


def test_hooks_take_the_ruff_that_the_checks_take():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (ruff,) = (repo for repo in hooks if repo["repo"].endswith("ruff-pre-commit"))
    assert ruff["rev"] == f"v{CONSTRAINTS['ruff']}"
