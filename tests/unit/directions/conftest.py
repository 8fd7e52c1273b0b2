"""A tiny model that chats, and a store."""

from tests.support.labelled_texts import source, store  # noqa: F401 - fixtures
