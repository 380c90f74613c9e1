"""A run's settings: from YAML and command line to the objects that they configure, checked before a model loads."""
