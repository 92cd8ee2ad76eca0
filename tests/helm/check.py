"""The Helm chart, as Helm itself reads it (its Go SDK, as a library), for several values.

Lints, renders, holds every object against Kubernetes' own schemas, and writes what the gateway and promtool have to check: for
each set of values a folder with config.toml, the variables of the pods, and the rules. One set is the manual's example.
Usage: check.py CHART MANUAL OUT
"""

import json
import pathlib
import sys

import helm_python
import kubernetes_validate
import yaml

# The oldest that the chart is for, and the newest that the schemas know.
KUBERNETES = ["1.30", kubernetes_validate.latest_version()]
# Of the Prometheus operator; Kubernetes has no schema for them.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}

NEEDED = {
    "postgres": {"url": "postgres://gate@db:5432/gate", "existingSecret": "db"},
    "rabbitmq": {"url": "amqp://gate@mq:5672/%2f", "existingSecret": "mq"},
}
FULL = NEEDED | {
    "image": {"repository": "registry.example/sluicegate", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "config": '[http]\nmax_streams = 5\n[backpressure]\nmode = "drop"\n[ledgers.one]\nkind = "fabric"\n'
    'peers = ["https://peer:7051"]\nchannel = "c"\nmsp_id = "M"\ncertificate = "/f/tls.crt"\nprivate_key = "/f/tls.key"\n'
    'tls_ca = "/f/ca.crt"\n[ledgers.one.worker]\nrate_per_second = 250\n',
    "secretFiles": [{"secret": "org1", "mountPath": "/f"}],
    "extraEnv": [{"name": "SLUICEGATE__LOG__LEVEL", "value": "debug"}],
    "tls": {"existingSecret": "server"},
    "api": {
        "autoscaling": {"enabled": True},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
    },
    "worker": {"autoscaling": {"enabled": True}, "podDisruptionBudget": {"enabled": False}},
    "service": {"type": "LoadBalancer", "annotations": {"c": "d"}},
    "ingress": {"enabled": True, "className": "nginx", "host": "gate.example", "tlsSecret": "web", "annotations": {"e": "f"}},
    "serviceMonitor": {"enabled": True, "keySecret": "scrape", "labels": {"release": "prometheus"}, "tlsConfig": {"serverName": "gate"}},
    "prometheusRule": {"enabled": True, "runbookBase": "https://wiki.example/runbooks/"},
    "serviceAccount": {"annotations": {"g": "h"}},
}
KINDS = {
    "needed": {
        "ConfigMap": 1, "ServiceAccount": 1, "Deployment": 2, "PodDisruptionBudget": 2, "Service": 2, "CronJob": 1,
    },
    "manual": {
        "ConfigMap": 1, "ServiceAccount": 1, "Deployment": 2, "PodDisruptionBudget": 2, "Service": 2, "CronJob": 1,
        "ServiceMonitor": 1, "PrometheusRule": 1,
    },
    "full": {
        "ConfigMap": 1, "ServiceAccount": 1, "Deployment": 2, "PodDisruptionBudget": 1, "Service": 2, "CronJob": 1,
        "HorizontalPodAutoscaler": 2, "Ingress": 1, "ServiceMonitor": 1, "PrometheusRule": 1,
    },
}  # fmt: skip
# What has to be refused, and a word of why.
REFUSED = {
    "no database": ({"rabbitmq": NEEDED["rabbitmq"]}, "postgres.url is needed"),
    "a slip": (NEEDED | {"wroker": {}}, "wroker"),
    "no key to scrape with": (NEEDED | {"serviceMonitor": {"enabled": True}}, "keySecret"),
    "a key for whoever answers": (FULL | {"serviceMonitor": {"enabled": True, "keySecret": "scrape"}}, "tlsConfig"),
    "a number that is none": (NEEDED | {"api": {"replicas": "two"}}, "replicas"),
}


class Once(yaml.SafeLoader):
    """Refuses a key that is there twice, which YAML forbids and PyYAML takes."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{node.start_mark}: {twice} more than once"
        return super().construct_mapping(node, deep)


def objects(chart, values):
    rendered = chart.render(values, name="gate", namespace="ledger")
    assert "create job --from=cronjob/gate-sluicegate-first-key" in rendered.pop("sluicegate/templates/NOTES.txt")
    for template, text in sorted(rendered.items()):
        for found in yaml.load_all(text, Loader=Once):
            if found:
                yield template, found


def check(name, found):
    kinds = {}
    for template, one in found:
        kinds[one["kind"]] = kinds.get(one["kind"], 0) + 1
        if one["kind"] not in FOREIGN:
            for version in KUBERNETES:
                try:
                    kubernetes_validate.validate(one, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    where = "/".join(str(part) for part in error.path)
                    sys.exit(f"{name}: {template}: {one['kind']}: {where}: {error.message} (Kubernetes {version})")
    assert kinds == KINDS[name], f"{name}: {kinds}"
    whole = {(one["kind"], one["metadata"]["name"]): one for _, one in found}
    assert len(whole) == len(found), f"{name}: two objects share a name"
    # What names another object, or a volume or port of its own, has to find it.
    for kind, (spec, labels) in pods(whole).items():
        mounts = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}, f"{name}: {kind}: {mounts}"
        assert ("ServiceAccount", spec["serviceAccountName"]) in whole
        assert ("ConfigMap", spec["volumes"][0]["configMap"]["name"]) in whole
        # Whoever ends in order is not killed in the midst of it: the lame duck's time, and the 20 s of a drain.
        variables = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
        lame = int(variables.get("SLUICEGATE__SHUTDOWN__LAME_DUCK_SECONDS", 0))
        if kind.startswith("Deployment"):
            assert spec["terminationGracePeriodSeconds"] > lame + 20, f"{name}: {kind}"
    labels = [labels for _, labels in pods(whole).values()]
    for (kind, own), one in whole.items():
        selector = one.get("spec", {}).get("selector", {})
        selector = selector.get("matchLabels", selector)
        if kind in {"Service", "PodDisruptionBudget", "Deployment"}:
            hits = [pod for pod in labels if selector.items() <= pod.items()]
            assert len(hits) == 1, f"{name}: {kind} {own} selects {len(hits)} kinds of pods"
        if kind == "HorizontalPodAutoscaler":
            assert ("Deployment", one["spec"]["scaleTargetRef"]["name"]) in whole
        if kind == "ServiceMonitor":
            services = [s["metadata"]["labels"] for (k, _), s in whole.items() if k == "Service"]
            assert all(selector.items() <= service.items() for service in services)
        if kind == "Ingress":
            backend = one["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"]
            assert ("Service", backend) in whole
    return whole


def pods(whole):
    found = {}
    for (kind, own), one in whole.items():
        if kind == "Deployment":
            template = one["spec"]["template"]
        elif kind == "CronJob":
            template = one["spec"]["jobTemplate"]["spec"]["template"]
        else:
            continue
        found[f"{kind} {own}"] = (template["spec"], template["metadata"]["labels"])
    return found


def hand_over(whole, folder):
    """What others check: the configuration with its variables, the words of each pod, the rules."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(whole["ConfigMap", "gate-sluicegate"]["data"]["config.toml"])
    told = {}
    for kind, (spec, _) in pods(whole).items():
        container = spec["containers"][0]
        variables = {one["name"]: one.get("value", "a-secret") for one in container["env"]}
        told[kind] = {"args": container["args"], "env": variables}
    (folder / "pods.json").write_text(json.dumps(told))
    for (kind, _), one in whole.items():
        if kind == "PrometheusRule":
            (folder / "rules.yml").write_text(yaml.safe_dump(one["spec"], sort_keys=False))


def example(manual):
    """The values that the manual shows."""
    text = pathlib.Path(manual).read_text()
    return yaml.load(text.split("# my-values.yaml\n")[1].split("```")[0], Loader=Once)


def main(chart, manual, out):
    sets = {"needed": NEEDED, "full": FULL, "manual": example(manual)}
    for name, values in sets.items():
        report = helm_python.lint(chart, values, strict=True)
        assert not report["errors"], f"{name}: {report}"
        assert all(message["severity"] < 2 for message in report["messages"]), f"{name}: {report}"
    with helm_python.Chart.load(chart) as loaded:
        for name, values in sets.items():
            hand_over(check(name, list(objects(loaded, values))), pathlib.Path(out) / name)
        for name, (values, words) in REFUSED.items():
            try:
                loaded.validate_schema(values)
                loaded.render(values, name="gate")
            except helm_python.HelmError as error:
                assert words in str(error), f"{name}: {error}"
            else:
                sys.exit(f"{name}: not refused")


main(*sys.argv[1:])
