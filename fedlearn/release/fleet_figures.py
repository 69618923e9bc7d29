"""A fleet's figures as Prometheus' text: devices, releases, the rollout, and the exchange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedlearn.release.run_store import RunPhase
from fedlearn.server.figures import ExchangeFigures, Exposition, add_exchange
from fedlearn.server.rollout_plan import DeviceStanding, RolloutPhase


def exposition(value: Mapping[str, Any], figures: ExchangeFigures) -> str:
    """Return a fleet's figures; value: of `fedlearn.release.fleet_status.status`."""
    out = Exposition()
    out.gauge("healthy", "1: /healthz says ok", int(figures.trouble is None))
    out.gauge("agents_attending", "Agents that are connected", figures.attending)
    _add_devices(out, value)
    _add_rollout(out, value)
    counts = Counter(run["phase"] for run in value["runs"])
    phases = {phase.name.lower(): 0 for phase in RunPhase}
    out.gauges(
        "fleet_runs", "The last runs by where they stand", "phase", phases | counts
    )
    add_exchange(out, figures)
    return out.text()


def _add_devices(out: Exposition, value: Mapping[str, Any]) -> None:
    devices = value["devices"]
    out.gauge("fleet_devices", "Devices that have ever attended", len(devices))
    out.gauges(
        "fleet_release_devices",
        "Devices that run a release for good",
        "release",
        value["releases"],
    )
    alarms = Counter(alarm for device in devices for alarm in device["alarms"])
    names = dict.fromkeys(("drift", "errors", "unsure", "silent"), 0)
    out.gauges(
        "fleet_alarm_devices",
        "Devices beyond a limit, or silent",
        "alarm",
        names | alarms,
    )
    served = sum(device["served"] for device in devices)
    out.counter("fleet_requests_total", "Requests that devices have answered", served)
    trials = sum(device["trial"] is not None for device in devices)
    out.gauge("fleet_trial_devices", "Devices with a release on trial", trials)


def _add_rollout(out: Exposition, value: Mapping[str, Any]) -> None:
    """Add how far the last rollout is; nothing before the first."""
    if value["rollout"] is None:
        return
    out.gauge("fleet_rollout", "Number of the last rollout", value["rollout"])
    phases = {phase.name.lower(): 0 for phase in RolloutPhase}
    phases[value["phase"]] = 1
    out.gauges("fleet_rollout_phase", "1: the rollout is there", "phase", phases)
    out.gauge("fleet_wave", "The last wave that is open", value["wave"])
    out.gauge("fleet_waves", "Waves of the rollout", len(value["waves"]))
    out.gauge(
        "fleet_unsettled_devices",
        "Devices that are not where they should be",
        len(value["unsettled"]),
    )
    counts: Counter[str] = Counter()
    for wave in value["waves"]:
        counts.update(wave)
    standings = {standing.name.lower(): 0 for standing in DeviceStanding}
    out.gauges(
        "fleet_standing_devices",
        "Devices of the rollout by where they stand",
        "standing",
        standings | counts,
    )
