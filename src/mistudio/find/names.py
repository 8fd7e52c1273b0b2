"""The files of found features."""

FEATURES_NAME = "features.parquet"
CONTEXTS_NAME = "contexts.parquet"
NEIGHBOURS_NAME = "neighbours.parquet"
MAP_NAME = "map.parquet"
FIND_NAME = "find.json"
