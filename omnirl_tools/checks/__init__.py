"""What can be known before a run: the installation, the data, the rewards."""
