"""Boards as folders: what `fedlearn.clients.device.readings` reads, written for a test."""

from collections.abc import Mapping
from pathlib import Path


def write(root: Path, files: Mapping[str, object]) -> Path:
    """Write files of one line, or of many, below a root; returns the root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def zone(number: int, name: str, celsius: float, **trips: float) -> dict[str, object]:
    """Return the files of a thermal zone; trips: kind=°C."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    files: dict[str, object] = {
        f"{folder}/type": name,
        f"{folder}/temp": round(celsius * 1000),
    }
    for at, (kind, limit) in enumerate(trips.items()):
        files[f"{folder}/trip_point_{at}_type"] = kind
        files[f"{folder}/trip_point_{at}_temp"] = round(limit * 1000)
    return files


def rail(
    chip: int, channel: int, label: str, millivolts: int, milliamperes: int
) -> dict[str, object]:
    """Return the files of one channel of an INA3221."""
    folder = f"sys/class/hwmon/hwmon{chip}"
    return {
        f"{folder}/name": "ina3221",
        f"{folder}/in{channel}_label": label,
        f"{folder}/in{channel}_input": millivolts,
        f"{folder}/curr{channel}_input": milliamperes,
    }


def route(*links: tuple[str, int]) -> dict[str, object]:
    """Return the routing table with a default route over each link, with its metric."""
    rows = [
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"
    ]
    rows += [
        f"{name}\t00000000\t0101A8C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0"
        for name, metric in links
    ]
    return {
        "proc/net/route": "\n".join(
            [*rows, "eth9\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"]
        )
    }


def orin_nano(root: Path, celsius: float = 48.5) -> Path:
    """Write a Jetson Orin Nano in 15 W mode, on mains, with 5 GB free."""
    return write(
        root,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc/device-tree/compatible": (
                "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0"
            ),
            "etc/nv_tegra_release": (
                "# R36 (release), REVISION: 4.3, GCID: 38968081, "
                "BOARD: generic, EABI: aarch64, DATE: Wed Jan  8"
            ),
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"',
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
            "< POWER_MODEL ID=1 NAME=7W >\n"
            "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=0 >",
            "var/lib/nvpmodel/status": "pmode:0000",
            "proc/meminfo": (
                "MemTotal:        7802784 kB\n"
                "MemFree:          391416 kB\nMemAvailable:    5242880 kB"
            ),
            "proc/sys/kernel/osrelease": "5.15.148-tegra",
            "sys/devices/system/cpu/online": "0-3,5",
            **zone(0, "cpu-thermal", celsius, active=51, passive=99, critical=104.5),
            **zone(1, "tj-thermal", celsius + 0.25, passive=99, critical=104.5),
            **rail(1, 1, "VDD_IN", 5000, 1200),
            **rail(1, 2, "VDD_CPU_GPU_CV", 5000, 400),
            **route(("wlan0", 600), ("eth0", 100)),
        },
    )
