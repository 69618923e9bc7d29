"""A trained model in the formats of other runtimes: what ``fedlearn export`` writes."""
