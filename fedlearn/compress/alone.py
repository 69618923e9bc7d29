"""The peak memory of a process that loads an ONNX model, runs it and does nothing else.

python -m fedlearn.compress.alone would load all of fedlearn: this file is run by its path,
with a model's path, and its input's dtype and shape as JSON.
"""

import json
import sys


def peak_bytes() -> int:
    """Return this process's peak of resident memory, in bytes; 0: Linux alone tells it."""
    # Not getrusage: after a fork it counts what the parent had, too.
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


def main() -> None:
    """Load the model, run it three times, and print the peak."""
    import numpy as np
    import onnxruntime

    path, dtype, shape = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    # What is fatal: whatever it refuses is raised.
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    zeros = np.zeros(json.loads(shape), dtype)
    # The first run takes memory that the later ones use again.
    for _ in range(3):
        session.run(None, {name: zeros})
    print(peak_bytes())


if __name__ == "__main__":
    main()
