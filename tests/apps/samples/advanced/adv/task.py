"""Softmax regression in numpy: a body that is shared, and a head of each node's own."""

import numpy as np


def load_data(partition_id, samples=60):
    rng = np.random.default_rng(partition_id)
    teacher = np.random.default_rng(77).normal(size=(8, 3))
    x = rng.normal(size=(samples, 8))
    return x, (x @ teacher + rng.normal(size=(samples, 3))).argmax(1)


def initial():
    rng = np.random.default_rng(5)
    return {
        "body": rng.normal(size=(8, 8)).astype(np.float32) / 3,
        "head": np.zeros((8, 3), np.float32),
        "steps": np.zeros(1, np.int64),
    }


def scores(model, x):
    return np.tanh(x @ model["body"]) @ model["head"]


def loss_and_accuracy(model, x, y):
    z = scores(model, x)
    z = z - z.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y] + 1e-9).mean()
    return float(loss), float((z.argmax(1) == y).mean())


def train(model, x, y, lr, epochs):
    """Train in place, on samples in an order drawn from numpy's global generator."""
    for _ in range(epochs):
        for part in np.array_split(np.random.permutation(len(y)), 4):
            hidden = np.tanh(x[part] @ model["body"])
            z = hidden @ model["head"]
            p = np.exp(z - z.max(1, keepdims=True))
            p = p / p.sum(1, keepdims=True)
            p[np.arange(len(part)), y[part]] -= 1
            back = (p @ model["head"].T) * (1 - hidden**2)
            model["head"] -= (lr * hidden.T @ p / len(part)).astype(np.float32)
            model["body"] -= (lr * x[part].T @ back / len(part)).astype(np.float32)
            model["steps"] += 1
