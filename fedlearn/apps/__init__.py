"""Flower apps, whole and unchanged: their ServerApp here, their ClientApp in workers."""
