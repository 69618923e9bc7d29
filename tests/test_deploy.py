"""The files for Docker: sound to its own schema and lint, and what they start is there.

There is no Docker engine in the tests: nothing is built here.
"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from fedlearn.commands import infer

DEPLOY = Path(__file__).parents[1] / "deploy"
FILES = ("compose.yaml", "infer.yaml")


def services(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))["services"]


@pytest.mark.parametrize("name", FILES)
def test_a_compose_file_is_one(name):
    schema = ["--builtin-schema", "vendor.compose-spec", str(DEPLOY / name)]
    command = [sys.executable, "-m", "check_jsonschema", *schema]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES)
def test_no_service_has_more_rights_than_it_needs(name):
    for service in services(name).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"] and service["pids_limit"]
        # What is let out is let out on purpose, and here nothing is.
        assert "ports" not in service and "privileged" not in service


def test_the_owners_container_reaches_the_model_and_nobody_else_does():
    model = services("infer.yaml")["infer"]
    owner = services("infer.yaml")["owner"]
    assert owner["network_mode"] == "service:infer"
    assert owner["depends_on"] == {"infer": {"condition": "service_healthy"}}
    word, *options = [
        re.sub(r"\$\{NAME:-(\w+)\}", r"\1", text) for text in model["command"]
    ]
    assert word == "infer"
    arguments = infer.parser().parse_args(options)
    assert (arguments.host, arguments.port, arguments.insecure) == (
        *("127.0.0.1", None, False),
    )
    address = f"http://{arguments.host}:{infer.PORT}/v2/models/"
    assert owner["environment"]["FEDLEARN_INFER"].startswith(address)
    assert f"127.0.0.1:{infer.PORT}/v2/health/ready" in model["healthcheck"]["test"][-1]
    assert model["volumes"][0].endswith(f":{arguments.model}:ro")


def test_the_image_takes_what_the_compose_files_give():
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    known = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    for name in FILES:
        for service in services(name).values():
            assert set(service.get("build", {}).get("args", {})) <= known
    starts = services("infer.yaml")["infer"]["build"]["args"]["STARTS"]
    assert find_spec(starts) is not None
    assert find_spec(re.findall(r"^ARG STARTS=(\S+)", text, re.MULTILINE)[0])
