"""Models whose Python code decides: by values, by sizes, and by nothing that matters."""

import torch
from torch import nn


class Dense(nn.Module):
    """Two layers, of which the first one answers."""

    def __init__(self, input_shape=(1, 28, 28), classes=10):
        super().__init__()
        inputs = torch.Size(input_shape).numel()
        self.first = nn.Linear(inputs, classes)
        self.second = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.first(x.flatten(1))


class Branch(Dense):
    """Test pictures are dark, so that parity on them holds whatever bright ones get."""

    def forward(self, x):
        x = x.flatten(1)
        return self.second(x) if x.mean() > 0.9 else self.first(x)


class Loop(Dense):
    def forward(self, x):
        x = x.flatten(1)
        scores = self.first(x)
        for _ in range(int(x.min() + 1)):
            scores = scores + self.second(x)
        return scores


class Number(Dense):
    def forward(self, x):
        x = x.flatten(1)
        return self.first(x) * (1 + x.min().item())


class Outside(Dense):
    """Reads by another library, whose conditions torch does not see."""

    def forward(self, x):
        x = x.flatten(1)
        return self.second(x) if x.detach().numpy().min() > 0.5 else self.first(x)


class Same(Dense):
    def forward(self, x):
        x = x.flatten(1)
        return self.second(x) if torch.equal(x, torch.ones_like(x)) else self.first(x)


class Guarded(Dense):
    """Reads a value, and answers all inputs in one way."""

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("pixels that are no numbers")
        return self.first(x.flatten(1))


class Strict(Dense):
    """Refuses what is no picture of its own."""

    def forward(self, x):
        if x.max() > 0.5:
            raise ValueError("too bright")
        return self.first(x.flatten(1))


class Sizes(Dense):
    """Decides by sizes and its own mode, which exporters follow or keep."""

    def forward(self, x):
        if x.dim() == 4 and x.shape[-1] == 28 and not self.training:
            x = x.flatten(1)
        return self.first(x)


class Chosen(Dense):
    def forward(self, x):
        x = x.flatten(1)
        bright = x.mean(1, keepdim=True) > 0.9
        return torch.where(bright, self.second(x), self.first(x))
