"""Published prompt sets: what a suite says of them, how each preset draws and counts, csv rows into probes, figures."""
