"""The experiments that come with fedlearn: one TOML file per claim."""
