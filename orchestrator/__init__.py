"""The running application and its upgrades."""
