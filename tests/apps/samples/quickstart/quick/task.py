"""A small network, and pictures that are drawn for each node."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two layers and the statistics of a batch between them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)
        )

    def forward(self, x):
        return self.layers(x)


def load_data(partition_id, batch_size, workers=0):
    generator = torch.Generator().manual_seed(partition_id)
    teacher = torch.randn(20, 3, generator=torch.Generator().manual_seed(99))
    x = torch.randn(96, 20, generator=generator)
    y = (x @ teacher).argmax(1)
    train = DataLoader(
        TensorDataset(x[:64], y[:64]), batch_size, shuffle=True, num_workers=workers
    )
    return train, DataLoader(TensorDataset(x[64:], y[64:]), batch_size)


def train(net, loader, epochs, lr):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


def test(net, loader):
    net.eval()
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        for x, y in loader:
            scores = net(x)
            loss += nn.functional.cross_entropy(scores, y, reduction="sum").item()
            right += (scores.argmax(1) == y).sum().item()
            count += len(y)
    return loss / count, right / count
