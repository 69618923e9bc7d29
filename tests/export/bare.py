"""Convolutional models whose dense layers have no bias."""

from torch import nn


class Bare(nn.Module):
    """A convolution and two dense layers without biases, on vectors."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=4)
        self.hidden = nn.Linear(4 * 7 * 7, 16, bias=False)
        self.output = nn.Linear(16, classes, bias=False)

    def forward(self, x):
        x = self.conv(x).relu().flatten(1)
        return self.output(self.hidden(x).relu())


class Steps(nn.Module):
    """A dense layer without a bias on each of many vectors."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=4)
        self.hidden = nn.Linear(49, 16, bias=False)
        self.output = nn.Linear(8 * 16, classes)

    def forward(self, x):
        x = self.conv(x).relu().flatten(2)
        return self.output(self.hidden(x).relu().flatten(1))
