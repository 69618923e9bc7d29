"""A small language model on this machine, for the example that would fetch one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fedlearn.errors import RunError

# Made in a process of its own: transformers takes seconds to import, and more memory.
_SOURCE = """
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

folder, words = Path(sys.argv[1]), sys.argv[2].split()
vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
(folder / "vocab.txt").write_text("\\n".join(vocabulary))
BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(vocabulary),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
)
BertForSequenceClassification(config).save_pretrained(folder)
"""


def make(folder: Path, words: tuple[str, ...]) -> None:
    """Write a BERT of two layers, drawn by a seed, and a tokenizer of these words.

    Raises RunError where transformers cannot be used.
    """
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", _SOURCE, str(folder), " ".join(words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise RunError(f"no model could be made in {folder}: {reason}")
