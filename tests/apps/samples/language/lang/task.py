"""Reviews of a few words, a tokenizer of those words, and a transformer that reads them."""

import random

import torch
from torch import nn
from torch.utils.data import DataLoader

PRAISE = ["great", "fine", "lovely", "bright", "moving"]
BLAME = ["dull", "weak", "awful", "flat", "boring"]
OTHERS = ["the", "film", "plot", "actor", "scene", "was", "and", "very"]
VOCABULARY = ["[pad]", "[cls]", "[unknown]", *PRAISE, *BLAME, *OTHERS]
NUMBERS = {word: number for number, word in enumerate(VOCABULARY)}


def tokenize(text):
    """Return the numbers of a text's words, and of the token in front of them."""
    unknown = NUMBERS["[unknown]"]
    return [NUMBERS["[cls]"], *(NUMBERS.get(w, unknown) for w in text.split())]


def reviews(partition_id, count):
    """Return texts, each with whether it praises."""
    generator = random.Random(partition_id)
    rows = []
    for _ in range(count):
        label = generator.random() < 0.5
        words = generator.choices(PRAISE if label else BLAME, k=2)
        words += generator.choices(OTHERS, k=generator.randrange(3, 9))
        generator.shuffle(words)
        rows.append((" ".join(words), int(label)))
    return rows


def collate(rows):
    """Return a batch, padded to its longest text: numbers, padding mask, labels."""
    tokens = [torch.tensor(tokenize(text)) for text, _ in rows]
    batch = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    return batch, batch == 0, torch.tensor([label for _, label in rows])


def load_data(partition_id, count=96):
    rows = reviews(partition_id, count)
    size = count * 3 // 4
    train = DataLoader(rows[:size], 16, shuffle=True, collate_fn=collate)
    return train, DataLoader(rows[size:], 16, collate_fn=collate)


class Classifier(nn.Module):
    """Two layers of attention over the tokens; the first token's state decides."""

    def __init__(self, width=32, longest=16):
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), width, padding_idx=0)
        self.places = nn.Parameter(torch.randn(longest, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=64, dropout=0.1, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens, mask):
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        return self.head(self.encoder(x, src_key_padding_mask=mask)[:, 0])


def train(model, loader, lr):
    """Train for an epoch; return the mean loss and the largest norm of a gradient."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    total, largest = 0.0, 0.0
    for tokens, mask, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens, mask), labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        largest = max(largest, float(norm))
    return total / len(loader), largest


@torch.no_grad()
def evaluate(model, loader):
    """Return the mean loss, and the counts of true praise, false praise and missed praise."""
    model.eval()
    loss, counts = 0.0, torch.zeros(3, dtype=torch.int64)
    for tokens, mask, labels in loader:
        scores = model(tokens, mask)
        loss += nn.functional.cross_entropy(scores, labels, reduction="sum").item()
        guess, truth = scores.argmax(1) == 1, labels == 1
        hits, false = (guess & truth).sum(), (guess & ~truth).sum()
        counts += torch.stack([hits, false, (~guess & truth).sum()])
    return loss / len(loader.dataset), counts.tolist()
