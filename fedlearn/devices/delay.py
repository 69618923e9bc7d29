"""Where inference should run once the model is trained: on the device, or in the cloud.

The delay of one answer is T = min(T_trans + T_cloud, T_edge): sending the input up and computing
there, or computing here.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlearn.devices.profiles import DeviceProfile


@dataclass(frozen=True)
class Delay:
    """The seconds of one answer by either way."""

    edge_s: float
    # The input up and the answer back; the few bytes of the answer are not counted.
    trans_s: float
    cloud_s: float

    @property
    def where(self) -> str:
        """Return "device" or "cloud", whichever answers first."""
        by_cloud_s = self.trans_s + self.cloud_s
        # Where both are as fast, the sample need not leave the device.
        return "device" if self.edge_s <= by_cloud_s else "cloud"


def delay(
    profile: DeviceProfile,
    cloud: DeviceProfile,
    input_bytes: int,
    forward_flops: float,
) -> Delay:
    """Return the delay of one sample on a device, and by way of the cloud.

    input_bytes: of a sample as it is stored. forward_flops: of one sample; both sides are assumed
    to reach the same share of their peak as in training.
    """
    # Mbit/s are 10**6 bits per second; a transfer takes the latency each way.
    up_bps = 1e6 * profile.up_mbps
    up_s = 8 * input_bytes / up_bps
    latency_s = 2 * profile.latency_ms / 1000
    edge_s = forward_flops / profile.flops
    cloud_s = forward_flops / cloud.flops
    return Delay(edge_s, up_s + latency_s, cloud_s)
