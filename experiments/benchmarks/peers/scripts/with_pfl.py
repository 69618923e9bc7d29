# mypy: ignore-errors
# The peer is installed in its own environment alone.
"""pfl (Apple's pfl-research): its FederatedAveraging on its SimulatedBackend, in one process.

python with_pfl.py WORKLOAD.npz THREADS

Samples are tensors from the start, which is its fastest way.
"""

import sys
import types

import seam
import textbook
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


class Turn(TrainingProcessCallback):
    """Waits for a turn after every round."""

    def __init__(self, turns):
        """Take the turns."""
        self.turns = turns

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Return whether to stop."""
        return next(self.turns, None) is None, Metrics()


def main():
    """Do rounds until told to stop."""
    turns = seam.Turns()
    if int(sys.argv[2]):
        torch.set_num_threads(int(sys.argv[2]))
    work = seam.Work(sys.argv[1])
    clients = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in work.clients]
    module = textbook.MODELS[work.name]()
    module.loss = types.MethodType(lambda self, x, y: textbook.loss(self(x), y), module)
    module.metrics = types.MethodType(lambda self, x, y: {}, module)
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    order = (
        client for number in range(work.rounds + 1) for client in work.draw(number)
    )
    data = FederatedDataset(
        lambda user: Dataset(raw_data=list(clients[user]), user_id=str(user)),
        lambda: next(order),
    )
    rounds = turns.rounds(textbook.parameters(module), torch.get_num_threads())
    next(rounds)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=10**9,
            train_cohort_size=work.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=seam.LR,
            local_batch_size=work.batch_size,
        ),
        model_eval_params=None,
        callbacks=[Turn(rounds)],
    )


if __name__ == "__main__":
    main()
