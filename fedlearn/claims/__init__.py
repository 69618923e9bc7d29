"""Claims about experiments: files of claims, the runs they need, verdicts, and pages."""
