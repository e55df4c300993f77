"""The sample application: a BGP monitor, its upgrades and its feed."""
