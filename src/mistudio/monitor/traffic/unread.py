"""Why something that came could not be read: a bounded set of reasons, so that each can be a label of a metric."""

from collections import Counter
from enum import StrEnum
from typing import TypeAlias


class Unread(StrEnum):
    """A reason why a body, or a part of one, is not watched."""

    EMPTY = "empty"  # a body, or a text, without content
    TOO_LARGE = "too_large"  # a body, once it is unpacked
    BAD_GZIP = "bad_gzip"
    NOT_JSON = "not_json"  # and no stream of events
    UNKNOWN_FORM = "unknown_form"  # JSON without a field that is known to hold a text
    NO_TEXT = "no_text"  # a known field that holds something else, such as numbers
    BAD_IDS = "bad_ids"  # token ids that are none
    BAD_MESSAGE = "bad_message"  # a message of a chat without a role, or with content that is none
    NOT_TEXT_PART = "not_text_part"  # an image, a sound or a file in a message
    TOOL_CALL = "tool_call"  # what a model asks tools to do
    ERROR_REPLY = "error_reply"  # an error in place of a reply, also within a stream
    CUT_STREAM = "cut_stream"  # a stream that breaks off; what came is read
    BAD_CHUNK = "bad_chunk"  # an event of a stream that is no JSON
    UNMATCHED = "unmatched"  # a reply that cannot be told which prompt it is to; it is read alone
    TOO_MANY = "too_many"  # texts of one exchange above max_samples


Problems: TypeAlias = Counter[Unread]
