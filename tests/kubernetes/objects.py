"""Looks over what the manifests say of each other, and takes out what other programs check.

  objects.py FOLDER    writes routes.json and phi4d.toml there
"""

import json
import pathlib
import sys

import yaml

MANIFESTS = pathlib.Path("packaging/kubernetes")
KINDS = {
    "phi4d.yaml": ["ConfigMap", "Deployment", "Service", "PodDisruptionBudget"],
    "gateway.yaml": ["InferencePool", "HTTPRoute"],
}


def objects(name):
    found = list(yaml.safe_load_all((MANIFESTS / name).read_text()))
    kinds = [one["kind"] for one in found]
    # Whoever adds another is to say what checks it.
    assert kinds == KINDS[name], f"{name} has {kinds}"
    return {one["kind"]: one for one in found}


def main(folder):
    core, gateway = objects("phi4d.yaml"), objects("gateway.yaml")
    template = core["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    [container] = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    selectors = [
        core["Deployment"]["spec"]["selector"]["matchLabels"],
        core["Service"]["spec"]["selector"],
        core["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        gateway["InferencePool"]["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector and selector.items() <= labels.items(), f"{selector} does not choose the daemons"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports, f"{probe} asks a port that is not there"
    assert core["Service"]["spec"]["ports"][0]["targetPort"] in ports

    pool = gateway["InferencePool"]
    assert pool["apiVersion"] == "inference.networking.k8s.io/v1"
    for port in pool["spec"]["targetPorts"]:
        assert port["number"] in ports.values(), f"the pool's port {port} is not the daemon's"
    backends = [backend for rule in gateway["HTTPRoute"]["spec"]["rules"] for backend in rule["backendRefs"]]
    for backend in backends:
        named = (backend["group"], backend["kind"], backend["name"])
        assert named == ("inference.networking.k8s.io", pool["kind"], pool["metadata"]["name"]), named

    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    folder = pathlib.Path(folder)
    settings = core["ConfigMap"]["data"]["phi4d.toml"]
    (folder / "phi4d.toml").write_text(settings)
    (folder / "routes.json").write_text(json.dumps(gateway["HTTPRoute"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
