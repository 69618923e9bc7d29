"""Answers on their way over MQTT: an outbox on the device, and who collects from it."""
