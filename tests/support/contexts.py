"""The published contexts of features, read without the library."""

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact


def read_contexts(features: Artifact) -> pa.Table:
    """All of them, in the order of the files."""
    return pa.concat_tables(pq.read_table(features.file(path)) for path in features.paths("contexts/"))
