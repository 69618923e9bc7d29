"""Smaller models: pruned, cut to low rank, binarised or in int8, measured beside the original."""
