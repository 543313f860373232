"""`deploy/observe`: what can be checked of it without Prometheus and Grafana; `make test-peers` does the rest."""

from __future__ import annotations

import itertools
import re
from typing import Any

import yaml

from tests.observing import (
    DASHBOARD,
    OBSERVE,
    SERIES,
    dashboard,
    named,
    panels,
    queries,
    rules,
    shown,
    shown_of_a_batcher,
)
from tests.test_deploy import services

PROMETHEUS = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())


def labels_by_series() -> dict[str, set[str]]:
    """Return every series that is shown, with its labels, those of a batcher's own page included."""
    found: dict[str, set[str]] = {}
    for one in (*shown(), *shown_of_a_batcher()):
        for ending in SERIES[one.kind]:
            found.setdefault(one.name + ending, set()).update(one.labels)
    return found


def test_every_metric_and_label_that_is_asked_for_is_shown() -> None:
    known = labels_by_series()
    asked = [
        (where, name, labels)
        for where, query in itertools.chain(queries(), rules().items())
        for name, labels in named(query)
    ]

    assert len(asked) > 50
    assert [(where, name) for where, name, _ in asked if name not in known] == []
    assert [(where, name, labels) for where, name, labels in asked if not labels <= known[name]] == []


def test_every_label_that_is_grouped_by_is_one_of_its_metric() -> None:
    known = labels_by_series() | {"up": {"job"}}
    for query in (*rules().values(), *(query for _, query in queries())):
        for labels, inner in re.findall(r"max by \(([\w, ]+)\) \((?:\w+\()?([a-z_]+)", query):
            assert set(labels.split(", ")) <= known[inner]


def test_every_metric_is_on_the_dashboard() -> None:
    asked = {name for _, query in queries() for name, _ in named(query)}

    assert [one.name for one in shown() if not {one.name + ending for ending in SERIES[one.kind]} & asked] == []


def test_no_query_adds_up_over_instances() -> None:
    """Each api process that is scraped tells of the whole: a sum over them would count it twice."""
    for query in (*rules().values(), *(query for _, query in queries())):
        assert not re.search(r"\b(?:sum|avg|count)(?: by \([^)]*\))? ?\((?!max by)", query)


def test_the_table_of_metrics_says_what_is_shown() -> None:
    table = re.findall(r"^\| `microbatch_.*$", (OBSERVE / "README.md").read_text(), re.MULTILINE)

    assert table == [one.row() for one in shown()]


def test_a_batcher_shows_the_metrics_that_the_table_says() -> None:
    names = [one.name for one in shown()]

    assert [one.name for one in shown_of_a_batcher()] == names[names.index("microbatch_requests") :]


def test_the_table_of_alerts_names_each() -> None:
    assert re.findall(r"^\| `(Microbatch\w+)`", (OBSERVE / "README.md").read_text(), re.MULTILINE) == list(rules())


def test_every_alert_is_tested_to_fire_and_to_keep_quiet() -> None:
    tests = yaml.safe_load((OBSERVE / "alerts_test.yml").read_text())["tests"]
    cases = [(case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]]

    assert set(cases) == set(itertools.product(rules(), (True, False)))


def test_images_are_pinned_and_what_observes_is_started_only_where_it_is_wanted() -> None:
    found = services()

    assert [name for name, service in found.items() if service.get("profiles") == ["observe"]] == [
        "prometheus",
        "grafana",
    ]
    assert all(re.search(r":v?\d+\.\d+\.\d+$", found[name]["image"]) for name in ("prometheus", "grafana"))


def test_prometheus_scrapes_one_api_and_each_batcher_where_compose_has_them() -> None:
    service, batchers = PROMETHEUS["scrape_configs"]
    compose = services()
    (found,) = batchers["dns_sd_configs"]

    assert service["static_configs"] == [{"targets": ["api:" + compose["api"]["ports"][0].rpartition(":")[2]]}]
    assert found["names"] == ["batcher"]
    assert str(found["port"]) == compose["batcher"]["environment"]["MICROBATCH_BATCHER_METRICS_PORT"]
    assert all((OBSERVE / file).is_file() for file in PROMETHEUS["rule_files"])
    assert f"./{OBSERVE.relative_to(OBSERVE.parents[1])}:/etc/prometheus:ro" in compose["prometheus"]["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in compose["prometheus"]["command"]


def test_grafana_finds_prometheus_and_the_dashboard_and_lets_nobody_in_but_to_look() -> None:
    compose = services()
    grafana = compose["grafana"]
    (source,) = yaml.safe_load((OBSERVE / "grafana/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((OBSERVE / "grafana/dashboards/provider.yml").read_text())["providers"]
    mounted = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])
    environment = grafana["environment"]

    assert source["url"] == "http://prometheus:" + compose["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    assert (OBSERVE.parents[1] / mounted[provider["options"]["path"]] / DASHBOARD.name).is_file()
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{provider['options']['path']}/{DASHBOARD.name}"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert (environment["GF_AUTH_BASIC_ENABLED"], environment["GF_AUTH_DISABLE_LOGIN_FORM"]) == ("false", "true")
    assert variable("source")["current"]["value"] == source["uid"]


def variable(name: str) -> dict[str, Any]:
    (found,) = (one for one in dashboard()["templating"]["list"] if one["name"] == name)
    return dict(found)


def test_the_dashboard_s_panels_lie_side_by_side_and_all_ask_the_chosen_prometheus() -> None:
    every = dashboard()["panels"]
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in every
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    asked = [target["datasource"] for panel in panels() for target in panel["targets"]]

    assert len({panel["id"] for panel in every}) == len(every)
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) == 23
    assert {source["uid"] for source in asked} == {"${source}"}
    assert set(re.findall(r"\$(\w+)", " ".join(query for _, query in queries()))) == {"queue", "__rate_interval"}
