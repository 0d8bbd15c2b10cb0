"""From labelled data to rows: choose the variables, plan partitions, read and stack a partition.

Knows xarray and NumPy. It builds no graph: what a task does with a partition is `read_box`, then
`extract_rows`.
"""

from daskmoe.rows.describe import Features, describe_rows
from daskmoe.rows.learning import Categories
from daskmoe.rows.matching import match_schema
from daskmoe.rows.partitions import Partition, plan_partitions
from daskmoe.rows.reading import OnError, Rows, extract_rows
from daskmoe.rows.sampling import SampleWindow, plan_sample
from daskmoe.rows.schema import FeatureVariable, RowSchema
from daskmoe.rows.sources import Data, booleans_of, source_of
from daskmoe.rows.stores import open_store, read_box

__all__ = [
    "Categories",
    "Data",
    "FeatureVariable",
    "Features",
    "OnError",
    "Partition",
    "RowSchema",
    "Rows",
    "SampleWindow",
    "booleans_of",
    "describe_rows",
    "extract_rows",
    "match_schema",
    "open_store",
    "plan_partitions",
    "plan_sample",
    "read_box",
    "source_of",
]
