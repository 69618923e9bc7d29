"""Where inference should run once the model is trained: on the device, or in the cloud.

The delay of one answer is T = min(T_trans + T_cloud, T_edge): sending the input up and computing there, or computing here.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlearn.devices.profiles import Profile


@dataclass(frozen=True)
class Delay:
    """The seconds of one answer each way."""

    edge_s: float
    trans_s: float  # the input up and the answer back, whose few bytes are not counted
    cloud_s: float

    @property
    def where(self) -> str:
        """Return "device" or "cloud", whichever answers first."""
        return "device" if self.edge_s <= self.trans_s + self.cloud_s else "cloud"


def delay(
    profile: Profile, cloud: Profile, input_bytes: int, forward_flops: float
) -> Delay:
    """Return the delay of one sample on a device, and by way of the cloud.

    input_bytes: of a sample as it is stored. forward_flops: of one sample; both sides reach the share of their peak that
    they reach in training.
    """
    trans = 8 * input_bytes / (1e6 * profile.up_mbps) + 2 * profile.latency_ms / 1000
    return Delay(forward_flops / profile.flops, trans, forward_flops / cloud.flops)
