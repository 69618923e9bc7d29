"""Looking for good values of a config's keys: what ``fedlearn tune`` runs and leaves."""
