"""What went wrong between a store and its server: whether to try again, and what to say where that did not help."""

import ssl
from typing import NamedTuple

from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from mistudio.artifacts.s3.credentials import NoKeys
from mistudio.errors import ConfigError, MistudioError, StorageError, StorageFull
from mistudio.plain_text import shortened

# Answers that another try may change, beside all of status 500 and above.
_BUSY_STATUS = {408, 425, 429}
_BUSY_CODES = {
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "TooManyRequests",
}
_LASTING_STATUS = {501, 505, 507}
_FULL_CODES = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientCapacity"}
_MISSING_CODES = {"NoSuchKey", "NoSuchUpload", "ResourceNotFound"}
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_WHAT_TO_DO = {
    "NoSuchBucket": "there is no such bucket. Make it, or name another with --store or MISTUDIO_STORE",
    "InvalidAccessKeyId": f"the server does not know the key. Set {_KEYS} to those of a user of this server",
    "SignatureDoesNotMatch": f"the secret does not belong to the key. Set {_KEYS} to a pair of this server",
    "AccessDenied": (
        "access is denied. The user needs to list the bucket, to read and write the objects below the prefix and to "
        f"remove them; check {_KEYS}, and the policy of user and bucket"
    ),
    "ExpiredToken": "the session has expired. Set AWS_SESSION_TOKEN and the keys anew",
    "InvalidToken": "the session token is not of this server. Set AWS_SESSION_TOKEN and the keys anew, or unset it",
    "InvalidTokenId": "the session token is not of this server. Set AWS_SESSION_TOKEN and the keys anew, or unset it",
    "RequestTimeTooSkewed": "the clock of this machine is more than 15 minutes off. Set it right",
    "AuthorizationHeaderMalformed": "the bucket lies in another region. Set AWS_DEFAULT_REGION to that",
    "PermanentRedirect": "the bucket lies in another region. Set AWS_DEFAULT_REGION and AWS_ENDPOINT_URL to that",
    "NotImplemented": "the server cannot do that. docs/s3.md says what a server has to offer",
}


class Replaced(Exception):  # noqa: N818 -- nothing failed
    """An object has another content than when its reading began."""


class Place(NamedTuple):
    """Which store at which server, for a message."""

    url: str
    endpoint: str


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an answer; None where there was none."""
    if isinstance(error, S3Error):
        return int(error.response.status)
    if isinstance(error, ServerError):
        return error.status_code
    if isinstance(error, InvalidResponseError):
        return int(error._code)
    return None


def is_missing(error: BaseException) -> bool:
    """Whether the server says that there is no such object or upload; a bucket that is not there is another matter."""
    return isinstance(error, S3Error) and error.code in _MISSING_CODES


def is_condition(error: BaseException) -> bool:
    """Whether a write was refused because the condition that came with it does not hold."""
    return status_of(error) == 412


def is_transient(error: BaseException, *, has_answered: bool = True) -> bool:
    """Whether the same request may succeed in a while.

    Args:
        error: what it ended with.
        has_answered: whether the server has been heard of; if not, a name that does not resolve is a wrong one.
    """
    status = status_of(error)
    if isinstance(error, NoKeys):
        return error.may_pass
    if status is not None:
        busy = isinstance(error, S3Error) and error.code in _BUSY_CODES
        return busy or status in _BUSY_STATUS or (status >= 500 and status not in _LASTING_STATUS)
    if isinstance(error, NameResolutionError):
        return has_answered
    if isinstance(error, SSLError) or isinstance(error.__cause__, ssl.SSLCertVerificationError):
        return not isinstance(_ssl_cause(error), ssl.SSLCertVerificationError) and has_answered
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def told(error: Exception, doing: str, place: Place, tried_s: float = 0.0) -> MistudioError:
    """What to raise where a request failed for good.

    Args:
        error: what it ended with.
        doing: what was to be done, as "read x in".
        place: which store.
        tried_s: for how long it was tried.
    """
    if isinstance(error, MistudioError):
        return error
    start = f"Cannot {doing} the store {place.url} at {place.endpoint}: "
    if isinstance(error, S3Error) and (error.code in _FULL_CODES or status_of(error) == 507):
        return StorageFull(f"{start}no space is left there. Free some or raise the quota, and run the same again.")
    if isinstance(error, S3Error) and error.code in _WHAT_TO_DO:
        return StorageError(f"{start}{_WHAT_TO_DO[error.code]}.")
    if isinstance(error, NoKeys):
        return ConfigError(f"{start}{error}.")
    if isinstance(error, ValueError):  # no request could be made of what the environment holds
        return ConfigError(f"{start}{shortened(error)}. Check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the keys.")
    why = _connection(error) if status_of(error) is None else _answer(error)
    tried = f", also after {tried_s:.0f} s of trying" if tried_s >= 1 else ""
    return StorageError(f"{start}{why}{tried}. {_advice(error)}")


def _answer(error: Exception) -> str:
    """What the server answered; its own words are shown shortened, and as text."""
    said = ""
    if isinstance(error, S3Error):
        said = f" {shortened(error.code)}" + (f" ({shortened(error.message)})" if error.message else "")
    return f"the server answers with status {status_of(error)}{said}"


def _connection(error: Exception) -> str:
    if isinstance(error, NameResolutionError):
        return "there is no such host"
    if isinstance(_ssl_cause(error), ssl.SSLCertVerificationError):
        return "the certificate of the server is not one that is trusted"
    if isinstance(error, SSLError):
        return "no secure connection could be made"
    if isinstance(error, NewConnectionError | ConnectTimeoutError):
        return "nothing answers there"
    if isinstance(error, HTTPTimeoutError):
        return "the server does not answer in time"
    return "the connection breaks off"


def _advice(error: Exception) -> str:
    if isinstance(error, NameResolutionError | NewConnectionError | ConnectTimeoutError):
        return "Set AWS_ENDPOINT_URL to the address of the server (without it, that of AWS is taken)."
    if isinstance(_ssl_cause(error), ssl.SSLCertVerificationError):
        return "Set AWS_CA_BUNDLE to a file with the certificate of the authority that signed it."
    if isinstance(error, SSLError):
        return "Check whether AWS_ENDPOINT_URL begins with http:// or https:// as the server wants it."
    return "Run the same command again when the server is well: what is there is gone on with."


def _ssl_cause(error: BaseException) -> BaseException | None:
    """The error of TLS behind one of urllib3."""
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, ssl.SSLError) else error.__cause__
