"""docs/EVENTS.md and the dashboard tell of what there is, all of it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from embedwire import events
from embedwire.gateway.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "EVENTS.md").read_text("utf-8")
DASHBOARD = json.loads((ROOT / "docs" / "grafana" / "embedwire.json").read_text("utf-8"))


def row(kind: type[events.Event]) -> str:
    """What the table says of an event: the first sentence of its docstring, and its fields."""
    told = (kind.__doc__ or "").partition("\n\n")[0]
    fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(kind) if field.name != "at")
    return f"| `{kind.__name__}` | {' '.join(told.split())} | {fields} |"


def test_each_event_is_in_the_table() -> None:
    """The table has each event, as its docstring tells it, in the order of the module."""
    kinds = [one for one in vars(events).values() if isinstance(one, type) and issubclass(one, events.Event)]
    assert [line for line in PAGE.splitlines() if re.match(r"\| `[A-Z][a-z]\w+` \|", line)] == [
        row(kind) for kind in kinds if kind is not events.Event
    ]


def test_each_field_is_told() -> None:
    """Each event's docstring has a line for each of its fields."""
    for name in events.__all__:
        kind = getattr(events, name)
        own = [field.name for field in dataclasses.fields(kind) if field.name != "at" or kind is events.Event]
        told = re.findall(r"^ {8}(\w+): ", kind.__doc__ or "", re.MULTILINE)
        assert told == own, name


def test_names_of_telemetry_are_the_modules() -> None:
    """Each name of a span's attribute or of a metric on the page is one of the module, and the other way round."""
    telemetry = pytest.importorskip("embedwire.telemetry")
    section = PAGE.split("## OpenTelemetry")[1].split("## Grafana")[0]
    told = set(re.findall(r"`((?:gen_ai|embedwire|server|error|http)\.[a-z_.]+)`", section)) - {
        "embedwire.telemetry"
    }
    names = {
        value
        for name, value in vars(telemetry).items()
        if name.isupper() and isinstance(value, str) and "." in value
    }
    assert told == names - {telemetry.TOKEN_TYPE}


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    """Each metric in it is one of the gateway's, or one of OpenTelemetry's as Prometheus names it; none is missing."""
    telemetry = pytest.importorskip("embedwire.telemetry")
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    asked = [re.sub(r" by \([^)]*\)", "", expr) for expr in asked]
    named = {name for expr in asked for name in re.findall(r"\b(?:embedwire|gen_ai)_\w+", expr)}
    named = {name.removesuffix("_bucket") for name in named}
    nobody = {"http://a": {"ready": 1.0, "in_flight": 0.0, "texts": 0.0}}
    gateways = set(re.findall(r"# TYPE (\w+)", Metrics().text(nobody)))
    others = {
        telemetry.DURATION: "_seconds",
        telemetry.QUEUE_DURATION: "_seconds",
        telemetry.TOKEN_USAGE: "_sum",
        telemetry.IN_FLIGHT: "",
        telemetry.REPEATS: "_total",
    }
    prometheus = {name.replace(".", "_") + suffix for name, suffix in others.items()}
    counted = {f"{telemetry.DURATION.replace('.', '_')}_seconds_count"}
    assert named - counted == gateways | prometheus


def test_the_dashboard_can_be_imported() -> None:
    """It has a title, each panel an id and a place of its own, and each query the data source that is chosen."""
    panels = DASHBOARD["panels"]
    assert DASHBOARD["title"] == "embedwire"
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
