"""Where a request is computed: on this device, at the centre, or on both sides of a cut."""
