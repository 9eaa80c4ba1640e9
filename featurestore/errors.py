"""The error tree: who must act, and whether trying again helps.

FeatureStoreError
├── DefinitionError            the author: a feature definition is wrong
│   ├── SchemaError            the author: a topic's schema file is missing or wrong
│   ├── NoViewError            the author: a module defines no feature view
│   └── ContractError          the author: a contract file is wrong
├── ConfigError                the operator: a setting is wrong or missing
├── RegistryError              the operator: the registry can't do what was asked
│   ├── BreakingChangeError    definitions that would break what is in use
│   ├── NoRegistryError        there is none yet: definitions have to be applied first
│   └── PlanRequiredError      the operator: definitions differ from what is applied; see the plan
├── SourceError                the operator: Kafka, or the files or database of a batch view
│   ├── SourceUnavailableError     a batch view's source can't be reached; trying again helps
│   ├── BrokerUnavailableError     trying again helps
│   ├── TopicNotFoundError         trying again helps once the topic exists
│   ├── SchemaRegistryUnavailableError  trying again helps
│   └── OffsetGapError             offsets that are still needed are gone
├── StoreError                 the operator: the stores on disk
│   ├── StoreLockedError           another run holds the source
│   ├── BackfillError              a backfill can't begin here, or is in the way
│   ├── StoreFormatError           a shard is missing, damaged, or of another format
│   └── StoreFullError             the disk is full; trying again helps once there is room
├── RequestError               the caller: a read that can't be answered (HTTP 4xx)
│   ├── UnknownViewError
│   ├── UnknownFeatureError
│   ├── UnknownFeatureServiceError
│   ├── PinnedVersionError         a feature service was applied with a version that is no longer deployed
│   └── MalformedRequestError
│       └── RequestTooLargeError       more entities, features or bytes than the server takes
└── ServerUnavailableError     the client's server does not answer; trying again helps
"""

from __future__ import annotations


class FeatureStoreError(Exception):
    """Base of every error this project raises on purpose.

    message: names the culprit and what was expected. hint: the way out, shown on its own line.
    """

    retryable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nHint: {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (bytewax workers); keyword-only arguments need help to be pickled.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[FeatureStoreError], message: str, hint: str | None) -> FeatureStoreError:
    return kind(message, hint=hint)


class DefinitionError(FeatureStoreError):
    """A feature definition is wrong; names the view and field."""


class SchemaError(DefinitionError):
    """A topic's schema file is missing, unreadable, or uses what is not supported."""


class NoViewError(DefinitionError):
    """A module defines no feature view."""


class ContractError(DefinitionError):
    """A contract can't be read, or asks for what is not there; names the file and, where it can, the line."""


class ConfigError(FeatureStoreError):
    """A setting is wrong or missing; names the key."""


class RegistryError(FeatureStoreError):
    """The registry can't do what was asked."""


class BreakingChangeError(RegistryError):
    """Definitions would break what is in use; names each reason."""


class NoRegistryError(RegistryError):
    """There is no registry here yet."""


class PlanRequiredError(RegistryError):
    """Definitions differ from what is applied."""


class SourceError(FeatureStoreError):
    """A source can't give what is needed."""


class SourceUnavailableError(SourceError):
    """The files or the database of a batch view can't be reached."""

    retryable = True


class BrokerUnavailableError(SourceError):
    """No broker answers."""

    retryable = True


class TopicNotFoundError(SourceError):
    """The topic does not exist (yet)."""

    retryable = True


class SchemaRegistryUnavailableError(SourceError):
    """The schema registry does not answer, or not as it should."""

    retryable = True


class OffsetGapError(SourceError):
    """Offsets that are still needed can no longer be read, or the log ends before them."""


class StoreError(FeatureStoreError):
    """A store on disk can't be used."""


class StoreLockedError(StoreError):
    """Another run holds the store of this source."""

    retryable = True


class BackfillError(StoreError):
    """A backfill can't begin here, or one that is not finished is in the way."""


class StoreFormatError(StoreError):
    """A shard is missing, damaged, or of another format."""


class StoreFullError(StoreError):
    """The disk is full."""

    retryable = True


class RequestError(FeatureStoreError):
    """A read that can't be answered as asked (HTTP 4xx)."""


class UnknownViewError(RequestError):
    """No view of that name is applied."""


class UnknownFeatureError(RequestError):
    """The view has no feature of that name."""


class UnknownFeatureServiceError(RequestError):
    """No feature service of that name is applied."""


class PinnedVersionError(RequestError):
    """A feature service pins a version of a view, and another one is deployed that computes something else."""


class MalformedRequestError(RequestError):
    """The request itself is wrong: missing join key, ragged columns, wrong type."""


class RequestTooLargeError(MalformedRequestError):
    """The request is larger than the server takes; names the limit."""


class ServerUnavailableError(FeatureStoreError):
    """The feature server does not answer."""

    retryable = True
