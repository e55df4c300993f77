"""What can go wrong between a pushed tag and a staged folder, split by whose fault it is."""


class StoreError(Exception):
    """Anything the repository side could not do. The message says what failed, what is true, what to do."""


class ReleaseInvalid(StoreError):
    """The content of the release is wrong: trying again gives the same, so its commit is quarantined."""


class ManifestInvalid(ReleaseInvalid):
    """A TOML file does not say what it may say; the message names file, key, value and what is allowed."""


class StagingFailed(StoreError):
    """Staging failed for a reason of the moment (disk, a killed child): it is tried again."""


class GitFailed(StoreError):
    """Git itself failed; the message carries its command and the end of its error output."""


class RefChanged(StoreError):
    """A compare-and-swap of refs lost: somebody moved one of them. Nothing was changed; read and retry."""


class PolicyUnreadable(StoreError):
    """What says who may deploy cannot be read, or could have been written by anybody: nothing is permitted."""


class TagRefused(StoreError):
    """A tag is not the order of somebody who may give it; the message is a phrase that says why, without the tag."""
