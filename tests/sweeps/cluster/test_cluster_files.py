"""The cluster files: what Ray itself says of them, that they agree with the project, and a dry run of the AWS one."""

from __future__ import annotations

import copy
import fnmatch
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import cfnlint.api
import jsonschema
import moto
import moto.core.authorization
import pytest
import yaml
from moto.ec2.models import instance_types
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.event_summarizer import EventSummarizer
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.node_launcher import BaseNodeLauncher
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
from ray.autoscaler._private.util import ConcurrentCounter, prepare_config, validate_config

from places import ROOT
from search import parser

CLOUDS = ("cluster.yaml", "clusters/gcp.yaml")
LAUNCHED = (*CLOUDS, "clusters/onprem.yaml")
KUBERAY = ("clusters/kuberay-cluster.yaml", "clusters/kuberay-job.yaml")
FILES = (*LAUNCHED, *KUBERAY, "clusters/aws-roles.yaml", "clusters/Dockerfile", "clusters/README.md")


class CloudFormation(yaml.SafeLoader):
    """YAML with the short forms of CloudFormation's functions."""


CloudFormation.add_multi_constructor("!", lambda loader, suffix, node: {suffix: node.value})


def read(name: str) -> Any:
    loader = CloudFormation if name.endswith("aws-roles.yaml") else yaml.SafeLoader
    return yaml.load((ROOT / name).read_text(), loader)


def ray_cluster(name: str) -> dict[str, Any]:
    """The RayCluster of a manifest, as the operator hands it to Ray's autoscaler."""
    manifest = read(name)
    spec = manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]
    return {"metadata": {"name": "mollify", "namespace": "default"}, "spec": spec}


# ---- what CloudFormation says


def test_cloudformation_takes_the_roles():
    """By its own linter, which moto's server brings: the simulated cloud takes what the real one refuses."""
    found = cfnlint.api.lint_all((ROOT / "clusters/aws-roles.yaml").read_text())
    assert [str(match) for match in found if not match.rule.id.startswith("I")] == []  # these are only information


# ---- what Ray says


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_it(name):
    schema = json.loads((Path(prepare_config.__code__.co_filename).parents[1] / "ray-schema.json").read_text())
    jsonschema.validate(read(name), schema)
    prepared = prepare_config(read(name))
    validate_config(prepared)
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepared, "idle_timeout_minute": 1})


@pytest.mark.parametrize("name", KUBERAY)
def test_rays_autoscaler_takes_the_manifest(name):
    config = _derive_autoscaling_config_from_ray_cr(ray_cluster(name))  # validates it too
    head, gpu = config["available_node_types"]["headgroup"], config["available_node_types"]["gpu"]
    assert head["resources"]["CPU"] == 0
    assert (gpu["resources"]["CPU"], gpu["resources"]["GPU"]) == (8, 1)
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 8)


@pytest.mark.parametrize("name", KUBERAY)
def test_the_manifests_have_what_the_operator_asks_for(name):
    manifest = read(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert manifest["kind"] == {"cluster": "RayCluster", "job": "RayJob"}[Path(name).stem.removeprefix("kuberay-")]
    assert re.fullmatch(r"[a-z0-9-]{1,47}", manifest["metadata"]["name"])
    spec = ray_cluster(name)["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        container = group["template"]["spec"]["containers"][0]
        assert container["image"].startswith("REGISTRY/")
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert all(isinstance(value, str) for value in container["resources"]["limits"].values())
    for group in spec["workerGroupSpecs"]:
        assert {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"} == set(group)


def test_the_job_runs_on_the_cluster_of_the_other_manifest():
    assert ray_cluster(KUBERAY[0])["spec"] == ray_cluster(KUBERAY[1])["spec"]


# ---- agreement with the project


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = next(r for r in map(Requirement, project["dependencies"]) if r.name == "ray")
    pinned = next(
        line.removeprefix("ray==")
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    assert Version(pinned) in wanted.specifier
    text = "\n".join((ROOT / name).read_text() for name in FILES)
    images = re.findall(r"rayproject/ray:(\S+)", text)
    assert len(images) == 5
    for image in images:
        version, python = re.fullmatch(r"([\d.]+)-py(\d+)-(?:cpu|gpu)", image).groups()
        assert version == pinned
        assert f"{python[0]}.{python[1:]}" in SpecifierSet(project["requires-python"])
    assert set(re.findall(r"REGISTRY/mollify:(\S+)", text)) == {pinned}
    assert {ray_cluster(name)["spec"]["rayVersion"] for name in KUBERAY} == {pinned}


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_runs_no_trials_and_workers_come_when_needed(name):
    config = read(name)
    types = copy.deepcopy(config["available_node_types"])
    assert types.pop(config["head_node_type"])["resources"] == {"CPU": 0}
    assert all(worker["min_workers"] == 0 for worker in types.values())
    assert max(types) == "gpu_spot"  # the last of equal types is the one that the autoscaler takes


def test_lost_machines_are_noticed_soon():
    """Faster than Ray does by itself, in every file; the test of a lost node in tests/faults has the same settings."""
    soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}
    for name in LAUNCHED:
        (start,) = [command for command in read(name)["head_start_ray_commands"] if "ray start" in command]
        assert {f"{key}={value}" for key, value in soon.items()} <= set(start.split())
    for name in KUBERAY:
        (head,) = ray_cluster(name)["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
        assert {entry["name"]: entry["value"] for entry in head["env"]} == soon


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_is_closed_to_others(name):
    config = read(name)
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[key]
        if "ray start" in command
    ]
    assert ["--head" in command for command in starts] == [True, False]
    assert "--dashboard-host=127.0.0.1" in starts[0].split()
    assert "0.0.0.0" not in (ROOT / name).read_text()
    container = config.get("docker", {}).get("run_options", [])
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command or "-e RAY_AUTH_MODE=token" in container
    mounted = next(remote for remote, local in config["file_mounts"].items() if local == "~/.ray/auth_token")
    assert mounted == "~/.ray/auth_token" or f"-e RAY_AUTH_TOKEN_PATH={mounted}" in container


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_pinned_requirements_are_installed_from_the_mounted_code(name):
    config = read(name)
    assert "." in config["file_mounts"].values()
    setup = " ".join(config["setup_commands"])
    assert re.search(r"pip install --quiet -r (\S+/)?requirements.txt", setup)
    assert "://" not in setup


@pytest.mark.parametrize("name", LAUNCHED)
def test_code_is_sent_without_data(name):
    patterns = read(name)["rsync_exclude"]

    def sent(path: str) -> bool:
        """As rsync matches patterns that do not begin with a slash: against the end of each leading part."""
        parts = path.split("/")
        return not any(
            fnmatch.fnmatchcase("/".join(parts[max(0, end - pattern.count("/") - 1) : end]), pattern)
            for pattern in patterns
            for end in range(1, len(parts) + 1)
        )

    left_out = ("runs/s/study.sqlite", "data/cifar-10.tar.gz", ".venv/bin/python", ".git/config", ".env", "wandb/run/x")
    assert not any(sent(path) for path in (*left_out, ".mypy_cache/x", "sweeps/__pycache__/a.pyc"))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [path for path in tracked if not sent(path)] == []


@pytest.mark.parametrize("name", FILES)
def test_no_secret(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"AKIA|-----BEGIN|password|secret_?key|RAY_AUTH_TOKEN[=:]", text, re.IGNORECASE)
    assert not re.search(r"\b(?=[A-Za-z+]*\d)[A-Za-z0-9+]{32,}\b", text)


@pytest.mark.parametrize("name", [*LAUNCHED, *KUBERAY])
def test_the_sweeps_that_it_shows_can_be_typed(name):
    text = re.sub(r" \\\n# +", " ", (ROOT / name).read_text())
    shown = re.findall(r"(?:-- +|'cd mollify && \S*)python sweeps/search\.py ([^'\n]+)", text)
    if name.endswith("job.yaml"):
        shown.append(read(name)["spec"]["entrypoint"].partition("sweeps/search.py")[2])
    assert len(shown) == 1
    args = parser().parse_args(shlex.split(shown[0]))
    assert args.address == "auto"
    assert args.storage in ("s3://BUCKET/sweeps", "gs://BUCKET/sweeps", "/nfs/sweeps")
    if args.storage.startswith("/"):  # no live SQLite on a network's folder
        assert args.study_url.startswith("sqlite:////home/")


# ---- AWS, dry


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """cluster.yaml as `ray up` resolves it in an account that has the roles, at a cloud that is simulated."""
    with pytest.MonkeyPatch.context() as patch, moto.mock_aws():
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # the SSH key that Ray makes
        patch.delenv("AWS_ENDPOINT_URL", raising=False)  # a developer's own store
        patch.chdir(ROOT)
        config = read("cluster.yaml")
        named = {node["node_config"]["InstanceType"] for node in config["available_node_types"].values()}
        # Ray asks for all of a thousand types, which takes moto many seconds to write down.
        patch.setattr(instance_types, "INSTANCE_TYPES", {name: instance_types.INSTANCE_TYPES[name] for name in named})
        region = config["provider"]["region"]
        stack = {"StackName": "mollify", "TemplateBody": (ROOT / "clusters/aws-roles.yaml").read_text()}
        boto3.client("cloudformation", region).create_stack(
            **stack,
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "sweeps"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        iam = boto3.client("iam")
        for role in ("mollify-head", "mollify-worker"):
            for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
                document = yaml.safe_load(str(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]))
                for statement in document["Statement"]:
                    statement.pop("Condition", None)  # moto cannot evaluate these, nor a policy that is not text
                iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))
        yield _bootstrap_config(config, no_config_cache=True)


def provider_of(config: dict[str, Any], role: str | None = None) -> Any:
    """Ray's node provider; with a role, everything it does is checked against the role's policies."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    settings = dict(config["provider"])
    if role:
        arn = boto3.client("iam").get_role(RoleName=role)["Role"]["Arn"]
        sts = boto3.client("sts", settings["region"])
        keys = sts.assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        settings["aws_credentials"] = {
            "aws_access_key_id": keys["AccessKeyId"],
            "aws_secret_access_key": keys["SecretAccessKey"],
            "aws_session_token": keys["SessionToken"],
        }
    return AWSNodeProvider(settings, config["cluster_name"])


def launch(provider: Any, config: dict[str, Any], node_type: str) -> str:
    """Launches one machine; returns its id."""
    kind = "head" if node_type == config["head_node_type"] else "worker"
    tags = {"ray-node-type": kind, "ray-node-name": f"ray-mollify-{kind}", "ray-user-node-type": node_type}
    node = config["available_node_types"][node_type]
    created = provider.create_node_with_resources_and_labels(node["node_config"], tags, 1, node["resources"], {})
    return next(iter(created))


def test_aws_bootstraps(aws):
    types = aws["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    spot, on_demand = types["gpu_spot"], types["gpu_on_demand"]
    assert spot["resources"] == on_demand["resources"]  # else one of them is always the better fit
    assert spot["resources"]["GPU"] == 1
    for node in types.values():
        assert len(node["node_config"]["SubnetIds"]) > 1
        assert node["node_config"]["SecurityGroupIds"]
    assert "head_node" not in aws or not aws["head_node"]  # Ray has made no role of its own


def test_aws_machines_are_launched_as_written(aws):
    provider = provider_of(aws)
    ec2 = boto3.resource("ec2", aws["provider"]["region"])
    found = {name: ec2.Instance(launch(provider, aws, name)) for name in aws["available_node_types"]}
    assert {name: machine.instance_lifecycle for name, machine in found.items()} == {
        "head": None,
        "gpu_spot": "spot",
        "gpu_on_demand": None,
    }
    profiles = {name: machine.iam_instance_profile["Arn"].rpartition("/")[2] for name, machine in found.items()}
    assert profiles == {"head": "mollify-head", "gpu_spot": "mollify-worker", "gpu_on_demand": "mollify-worker"}
    assert all(machine.metadata_options["HttpTokens"] == "required" for machine in found.values())
    open_ports = ec2.SecurityGroup(found["head"].security_groups[0]["GroupId"]).ip_permissions
    assert [rule["FromPort"] for rule in open_ports if rule["IpRanges"]] == [22]


@pytest.mark.slow
def test_the_heads_role_is_enough_to_run_workers_and_the_workers_is_not(aws):
    head, worker = provider_of(aws, "mollify-head"), provider_of(aws, "mollify-worker")
    with moto.core.authorization.enable_iam_authentication():
        node = launch(head, aws, "gpu_spot")
        assert node in head.non_terminated_nodes({"ray-user-node-type": "gpu_spot"})
        head.set_node_tags(node, {"ray-node-status": "up-to-date"})
        head.fillout_available_node_types_resources({**aws, "provider": head.provider_config})
        head.terminate_nodes([node])
        with pytest.raises(Exception, match=r"UnauthorizedOperation|not authorized"):
            launch(worker, aws, "gpu_spot")


@pytest.mark.parametrize("role", ["mollify-head", "mollify-worker"])
def test_the_roles_reach_one_bucket(aws, role):
    region = aws["provider"]["region"]
    for bucket in ("sweeps", "other"):
        boto3.client("s3", "us-east-1").create_bucket(Bucket=f"{bucket}")
    keys = provider_of(aws, role).provider_config["aws_credentials"]
    s3 = boto3.client("s3", region, **keys)
    with moto.core.authorization.enable_iam_authentication():
        s3.put_object(Bucket="sweeps", Key="s/sweep.json", Body=b"{}")
        assert s3.get_object(Bucket="sweeps", Key="s/sweep.json")["Body"].read() == b"{}"
        assert s3.list_objects_v2(Bucket="sweeps")["KeyCount"] == 1
        s3.delete_object(Bucket="sweeps", Key="s/sweep.json")
        with pytest.raises(botocore.exceptions.ClientError, match=r"AccessDenied|Forbidden"):
            s3.put_object(Bucket="other", Key="x", Body=b"")


def test_when_spot_is_refused_an_on_demand_machine_is_taken(aws, monkeypatch):
    """Ray's own scheduler and launcher; EC2 answers every spot request with "no capacity"."""
    provider = provider_of(aws)

    def refuse(params: dict[str, Any], **_: Any) -> None:
        if params["body"].get("InstanceMarketOptions.MarketType") == "spot":
            error = {"Code": "InsufficientInstanceCapacity", "Message": "no capacity"}
            raise botocore.exceptions.ClientError({"Error": error}, "RunInstances")

    events = provider.ec2_fail_fast.meta.client.meta.events
    events.register("before-call.ec2.RunInstances", refuse, unique_id="refuse")
    types = aws["available_node_types"]
    tracker = NodeProviderAvailabilityTracker()
    launcher = BaseNodeLauncher(provider, ConcurrentCounter(), EventSummarizer(), tracker, node_types=types)

    def wanted(demand: dict[str, float]) -> dict[str, int]:
        scheduler = ResourceDemandScheduler(provider, types, aws["max_workers"], aws["head_node_type"], 1.0)
        counts, _ = scheduler.get_nodes_to_launch([], {"head": 1}, [demand], {}, [], {}, [], tracker.summary())
        return dict(counts)

    def attempt(node_type: str) -> bool:
        launcher.pending.inc(node_type, 1)
        return bool(launcher.launch_node(aws, 1, node_type))

    start = " ".join(aws["head_start_ray_commands"])
    name, scorer = re.search(r"(RAY_AUTOSCALER_UTILIZATION_SCORER)=(\S+)", start).groups()
    monkeypatch.setenv(name, scorer)
    trial = {"CPU": 1, "GPU": 1}
    try:
        assert wanted(trial) == {"gpu_spot": 1}
        assert not attempt("gpu_spot")
        assert wanted(trial) == {"gpu_on_demand": 1}
        assert attempt("gpu_on_demand")
        assert wanted({"GPU": 64}) == {}
        monkeypatch.delenv(name)
        assert wanted(trial) == {"gpu_spot": 1}  # without ours: the reason why there is one
    finally:
        events.unregister("before-call.ec2.RunInstances", unique_id="refuse")
