"""The stages of an installation, and what moves it from one to another.

A dot: nothing changes.

```
           want     good      held      consent   wrong    written  full healthy unwell ended
BOOTING    .        .         .         .         .        .        .    .       .      .
IDLE       FETCHING .         .         .         .        .        .    .       .      .
FETCHING   FETCHING VERIFYING VERIFYING .         ENDING   .        .    .       .      .
VERIFYING  FETCHING CLEARING  CLEARING  .         ENDING   .        .    .       .      .
CLEARING   .        .         .         .         .        STAGING  IDLE .       .      .
STAGING    FETCHING TRYING    TRYING    .         ENDING   .        .    .       .      .
TRYING     FETCHING SWITCHING TRIED     .         ENDING   .        .    .       .      .
TRIED      IDLE     .         .         SWITCHING .        .        .    .       .      .
INSPECTING FETCHING ENDING    ENDING    .         FETCHING .        .    .       .      .
SWITCHING  .        .         .         .         .        WATCHING IDLE .       .      .
STARTING   .        .         .         .         .        WATCHING .    .       .      .
WATCHING   ENDING   .         .         .         .        .        .    ENDING  ENDING STARTING
ENDING     .        .         .         .         .        IDLE     .    .       .      .
STOPPING   .        .         .         .         .        .        .    .       .      .
```

want: another release is wanted. good: the stage's work succeeded; held: so it did, and the
owner does not consent now; consent: the owner does. wrong: the work failed. written,
full: the disk took the record, or did not. healthy: the watch is over. unwell: figures beyond a
limit, or no serving in time. ended: the serving process ended; without a start left this
is unwell. A want during a write is acted on when the write is over, and one in BOOTING when the
slots have been looked at: until then nobody knows what a trial would return to.
CLEARING is passed over where the free slot holds nothing.
"""

from __future__ import annotations

from enum import Enum, auto


class InstallStage(Enum):
    """What an installation does; see the module's table."""

    # The slots are being hashed, before anything else is done.
    BOOTING = auto()
    IDLE = auto()
    FETCHING = auto()
    VERIFYING = auto()
    # The record that says nothing of the free slot any more is on its way to disk.
    CLEARING = auto()
    STAGING = auto()
    TRYING = auto()
    TRIED = auto()
    # The other slot holds what is wanted: its bytes are being hashed.
    INSPECTING = auto()
    # The record of a trial is on its way to disk.
    SWITCHING = auto()
    # The record of one start fewer is.
    STARTING = auto()
    WATCHING = auto()
    # The record of the end is: committed, failed, returned or emptied.
    ENDING = auto()
    # The agent stops on purpose.
    STOPPING = auto()


# Stages of work that is dropped when something else is wanted.
WORKING = {
    InstallStage.FETCHING,
    InstallStage.VERIFYING,
    InstallStage.STAGING,
    InstallStage.TRYING,
    InstallStage.TRIED,
    InstallStage.INSPECTING,
}

# Stages in which something is being installed that is not on trial yet.
INSTALLING = {*WORKING, InstallStage.CLEARING, InstallStage.SWITCHING}
