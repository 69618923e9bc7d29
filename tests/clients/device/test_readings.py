"""What a device tells: boards as folders, and boards that tell little, nonsense or nothing."""

import contextlib
import importlib.metadata
import json
import subprocess
import sys

import pytest

from fedlearn.clients.device import board
from fedlearn.clients.device import readings as device
from fedlearn.clients.device.readings import Battery, Energy, PowerMode, Reading, Zone
from tests.clients.device import boards


def test_an_orin_nano(tmp_path):
    found = device.read(boards.orin_nano(tmp_path))
    assert found == Reading(
        zones=(
            Zone("cpu-thermal", 48.5, 99.0, 104.5),
            Zone("tj-thermal", 48.75, 99.0, 104.5),
        ),
        battery=None,
        power_mode=PowerMode(0, "15W", 15.0),
        free_bytes=5 << 30,
        link="eth0",
        modem=False,
        watts=6.0,
    )
    assert found.hottest == found.zones[1]


def test_its_facts_are_flat_and_short(tmp_path):
    found = board.facts(boards.orin_nano(tmp_path))
    expected = {
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
        "chip": "nvidia,tegra234",
        "os": "Ubuntu 22.04.5 LTS",
        "kernel": "5.15.148-tegra",
        "l4t": "36.4.3",
        "jetpack": "6.2",
        "cpus": 5,
        "memory_mb": 7619,
        "free_mb": 5120,
        "power_mode": "15W",
        "temperature_c": 48.8,
        "watts": 6.0,
    }
    assert expected.items() <= found.items()
    assert {"gpu", "battery_percent", "mains"}.isdisjoint(found)


def test_a_folder_without_anything_tells_nothing(tmp_path):
    assert device.read(tmp_path) == Reading()
    assert device.oom_kills(tmp_path) is None
    assert set(board.facts(tmp_path)) <= {"machine", "python", "torch"}


def test_this_machine_can_be_read():
    assert (device.read().free_bytes or 0) > 1 << 20
    assert len(json.dumps(board.facts())) < 4096


def test_hostile_texts_are_cut_and_escaped(tmp_path):
    long = '"\x1b\\é' * 5000
    names = (
        "proc/device-tree/model",
        "proc/device-tree/compatible",
        "proc/sys/kernel/osrelease",
    )
    boards.write(
        tmp_path, dict.fromkeys(names, long) | {"etc/os-release": f"PRETTY_NAME={long}"}
    )
    found = board.facts(tmp_path)
    assert found["board"] == ('"?\\?' * 20)
    assert len(json.dumps(found)) < 1024


def test_zones_that_are_off_or_say_nonsense_are_left_out(tmp_path):
    boards.write(
        tmp_path,
        {
            **boards.zone(0, "cv0-thermal", -256.0),
            **boards.zone(1, "x86_pkg_temp", 61, passive=-274, critical=0),
            **boards.zone(2, "broken", 0, passive=95),
            "sys/class/thermal/thermal_zone2/temp": "",
        },
    )
    (tmp_path / "sys/class/thermal/thermal_zone3/temp").mkdir(
        parents=True
    )  # reading it fails, as with EAGAIN
    assert device.zones(tmp_path) == (Zone("x86_pkg_temp", 61.0),)


def test_the_lowest_trip_of_a_kind_counts(tmp_path):
    folder = "sys/class/thermal/thermal_zone0"
    boards.write(tmp_path, boards.zone(0, "cpu", 50, passive=95, hot=105, critical=110))
    boards.write(
        tmp_path,
        {
            f"{folder}/trip_point_3_type": "passive",
            f"{folder}/trip_point_3_temp": 90000,
        },
    )
    assert device.zones(tmp_path) == (Zone("cpu", 50.0, 90.0, 105.0),)


SUPPLY = "sys/class/power_supply"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"BAT0/type": "Battery", "BAT0/status": "Discharging", "BAT0/capacity": 42},
            Battery(True, 42.0),
        ),
        (
            {
                "BAT0/type": "Battery",
                "BAT0/status": "Discharging",
                "BAT0/energy_now": 300,
                "BAT0/energy_full": 400,
            },
            Battery(True, 75.0),
        ),
        (
            {
                "AC/type": "Mains",
                "AC/online": 1,
                "BAT0/type": "Battery",
                "BAT0/status": "Discharging",
                "BAT0/capacity": 42,
            },
            Battery(False, 42.0),
        ),
        (
            {
                "AC/type": "Mains",
                "AC/online": 0,
                "BAT0/type": "Battery",
                "BAT0/status": "Discharging",
                "BAT0/capacity": 42,
            },
            Battery(True, 42.0),
        ),
        (
            {"BAT0/type": "Battery", "BAT0/status": "Charging", "BAT0/capacity": 42},
            Battery(False, 42.0),
        ),
        ({"ups/type": "UPS", "ups/status": "Discharging"}, Battery(True, None)),
        ({"BAT0/type": "Battery", "BAT0/present": 0, "BAT0/status": "Unknown"}, None),
        (
            {
                "mouse/type": "Battery",
                "mouse/scope": "Device",
                "mouse/status": "Discharging",
                "mouse/capacity": 3,
            },
            None,
        ),
        ({"AC/type": "Mains", "AC/online": 1}, None),
    ],
)
def test_batteries(tmp_path, files, expected):
    boards.write(tmp_path, {f"{SUPPLY}/{name}": value for name, value in files.items()})
    assert device.battery(tmp_path) == expected


def test_of_two_batteries_the_emptier_counts(tmp_path):
    for name, percent in (("BAT0", 80), ("BAT1", 20)):
        files = {"type": "Battery", "status": "Discharging", "capacity": percent}
        boards.write(
            tmp_path,
            {f"{SUPPLY}/{name}/{file}": value for file, value in files.items()},
        )
    assert device.battery(tmp_path) == Battery(True, 20.0)


@pytest.mark.parametrize(
    ("number", "name", "watts"),
    [
        (1, "7W", 7.0),
        (2, "MAXN_SUPER", float("inf")),
        (3, "MODE_10W_2CORE", 10.0),
        (4, "QUIET", None),
        (9, "mode 9", None),
    ],
)
def test_power_modes(tmp_path, number, name, watts):
    boards.orin_nano(tmp_path)
    config = tmp_path / "etc/nvpmodel.conf"
    config.write_text(
        config.read_text()
        + "< POWER_MODEL ID=3 NAME=MODE_10W_2CORE >\n< POWER_MODEL ID=4 NAME=QUIET >\n"
    )
    boards.write(tmp_path, {"var/lib/nvpmodel/status": f"pmode:{number:04d}"})
    assert device.power_mode(tmp_path) == PowerMode(number, name, watts)


def test_the_tightest_control_group_bounds_the_memory(tmp_path):
    boards.orin_nano(tmp_path)
    group = "sys/fs/cgroup/system.slice"
    boards.write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/old\n0::/system.slice/fedlearn-agent.service",
            f"{group}/memory.max": "max",
            f"{group}/memory.current": 1 << 30,
            f"{group}/fedlearn-agent.service/memory.max": 1 << 30,
            f"{group}/fedlearn-agent.service/memory.current": 900 << 20,
            f"{group}/fedlearn-agent.service/memory.stat": (
                f"active_file 77\ninactive_file {100 << 20}"
            ),
        },
    )
    assert device.free_bytes(tmp_path) == (1024 - 900 + 100) << 20


def test_the_default_link_and_whether_it_is_a_modem(tmp_path):
    boards.write(tmp_path / "four", boards.route(("wwan0", 700), ("eth0", 100)))
    assert device.default_link(tmp_path / "four") == "eth0"
    six = (
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
        "fe80 00000400 00000001 00000000 00450003    eth1"
    )
    nearer = six.replace("00000400", "00000100").replace("eth1", "enx1")
    boards.write(tmp_path / "six", {"proc/net/ipv6_route": f"{six}\n{nearer}"})
    assert device.default_link(tmp_path / "six") == "enx1"
    assert not device.is_modem("enx1", tmp_path / "six")
    boards.write(
        tmp_path / "six", {"sys/class/net/enx1/uevent": "DEVTYPE=wwan\nINTERFACE=enx1"}
    )
    assert device.is_modem("enx1", tmp_path / "six") and device.is_modem(
        "wwan0", tmp_path
    )
    assert device.default_link(tmp_path) is None
    boards.write(
        tmp_path,
        {
            "proc/net/route": "Iface\na 00000000 b c d e many 00000000",
            "proc/net/ipv6_route": "0 00 0 0 0 ? 0 0 0 eth0",
        },
    )
    assert device.default_link(tmp_path) is None


def test_without_a_rail_for_all_the_rails_are_added_once(tmp_path):
    boards.write(
        tmp_path,
        {
            **boards.rail(0, 1, "VDD_GPU_SOC", 20000, 500),
            **boards.rail(0, 2, "VDD_CPU_CV", 20000, 100),
            **boards.rail(0, 3, "VIN_SYS_5V0", 5000, 1000),
            **boards.rail(1, 1, "NC", 100, 100),
            **boards.rail(1, 2, "VDDQ_VDD2_1V8AO", 5000, 300),
            "sys/class/hwmon/hwmon2/name": "nvme",
            "sys/class/hwmon/hwmon2/in1_input": 3300,
            "sys/class/hwmon/hwmon2/curr1_input": 1000,
        },
    )
    assert device.watts(tmp_path) == pytest.approx(10 + 2 + 5)


def test_energy_is_the_area_below_the_readings():
    energy = Energy()
    assert energy.joules is None
    for now, watts in ((10.0, 4.0), (12.0, 6.0), (13.0, None), (14.0, 6.0)):
        energy.add(now, watts)
    assert energy.joules == 2 * 5.0 + 2 * 6.0


def test_kills_for_want_of_memory(tmp_path):
    boards.write(tmp_path, {"proc/vmstat": "nr_free_pages 1\noom_kill 3\noom_killer 9"})
    assert device.oom_kills(tmp_path) == 3


@pytest.mark.parametrize(
    ("line", "release", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 1", "36.4", "6.1"),
        ("# R35 (release), REVISION: 6.1, GCID: 1", "35.6.1", "5"),
        ("# R99 (release), REVISION: 1.0", "99.1", None),
        ("Ubuntu", None, None),
    ],
)
def test_releases_of_jetson_linux(tmp_path, line, release, jetpack):
    boards.write(tmp_path, {"etc/nv_tegra_release": line})
    assert board.l4t(tmp_path) == release
    assert board.facts(tmp_path).get("jetpack") == jetpack


def test_a_gpu_with_a_driver_of_its_own(tmp_path):
    boards.write(
        tmp_path,
        {
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA T4\nIRQ: 3"
        },
    )
    assert board.facts(tmp_path)["gpu"] == "NVIDIA T4"


def test_torch_is_told_and_neither_it_nor_numpy_is_loaded():
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        assert board.torch_version() == importlib.metadata.version("torch")
    code = (
        "import sys; from fedlearn.clients.device import board, guest, settings; board.facts()\n"
        "assert not {'torch', 'numpy', 'grpc', 'importlib.metadata'} & set(sys.modules), 'too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
