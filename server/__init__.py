"""The coordinator's library: service, rounds as a state machine, journal, identity, figures."""
