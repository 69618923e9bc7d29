"""The place that a served model stands in, and how another version takes it without a gap.

A request is answered by the version that checked it. So both sessions are in memory from
the moment that the new one is loaded until the last batch of the old one has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedlearn.clients.infer import model
from fedlearn.clients.infer.model import ServedModel
from fedlearn.errors import FedlearnError, RunError, one_line
from fedlearn.system import malloc
