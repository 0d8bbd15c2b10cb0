"""Names of the dimensions, variables and attributes of a model, in memory and saved, and their version."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

SCHEMA_VERSION: Final = 1

EXPERT: Final = "expert"
FEATURE: Final = "feature"
# Of the experts' parameters, where the target is labels.
OUTPUT: Final = "output"
CLASS: Final = "class"
# Where gates have other features than the experts.
GATE_FEATURE: Final = "gate_feature"
PARTITION: Final = "partition"
LOCAL_EXPERT: Final = "local_expert"

GATE_INTERCEPT: Final = "gate_intercept"
GATE_COEF: Final = "gate_coef"
INTERCEPT: Final = "intercept"
COEF: Final = "coef"
# Attributes of the diagnostics of a refinement: nats left to gain, and the features that they are in.
LEFT: Final = "refinement_left"
LEFT_IN: Final = "refinement_left_in"

# Only in a weighted average, whose experts belong to groups with a gating network each.
GROUP: Final = "group"
GROUP_WEIGHT: Final = "group_weight"

BOUND: Final = "bound"
LOWER: Final = "lower"
UPPER: Final = "upper"

# Of the diagnostics, of all rows of a fit or a refinement.
TRAINING_LOG_LIKELIHOOD: Final = "training_log_likelihood"
TRAINING_ENTROPY: Final = "training_entropy"
N_PARAMETERS: Final = "n_parameters"

# Of the diagnostics, by pairs of parameters: covariances of a `Kind` each, and which parameters have errors.
COVARIANCE: Final = "covariance"
IDENTIFIED: Final = "identified"
KIND: Final = "kind"
PARAMETER: Final = "parameter"
OTHER_PARAMETER: Final = "other_parameter"
# Their attributes: what a cluster is, and how many there were.
CLUSTERS: Final = "clusters"
N_CLUSTERS: Final = "n_clusters"
STANDARD_ERROR: Final = "standard_error"
# Before the names of the parameters: what version 0.1.0 kept of them.
OLD_STANDARD_ERROR: Final = "standard_error_"


class Kind(StrEnum):
    """What standard errors are made of."""

    # The information at the maximum.
    MODEL = "model"
    # The scores of rows, or of clusters of rows, too.
    ROBUST = "robust"
    CLUSTER = "cluster"
    # The information near the maximum.
    APPROXIMATE = "approximate"


# What all rows say of a model: by expert, and by bound, lower or upper.
EXPERT_WEIGHT: Final = "expert_weight"
PREDICTION_RANGE: Final = "prediction_range"
PREDICTION_ROW: Final = "prediction_row"
PREDICTION_PARTITION: Final = "prediction_partition"
TARGET_RANGE: Final = "target_range"
# An attribute, where the model is a shared start that was fitted to some of the rows only.
FROM_SAMPLE: Final = "from_sample"

# Of the diagnostics, by update of a model with new rows.
UPDATE: Final = "update"
UPDATE_ROWS: Final = "update_rows"
UPDATE_DRIFT: Final = "update_drift"
UPDATE_DRIFT_LIMIT: Final = "update_drift_limit"
UPDATE_DRIFT_NATS: Final = "update_drift_nats"

# Of the diagnostics of a fit, by partition.
OUTCOME: Final = "outcome"
ABSENT_ROWS: Final = "absent_rows"
STATUS: Final = "status"

# Of the diagnostics, the moments of the rows by column: the features and, last, the target.
ROW_WEIGHT: Final = "row_weight"
ROW_MEAN: Final = "row_mean"
ROW_SCATTER: Final = "row_scatter"
COLUMN: Final = "column"
OTHER_COLUMN: Final = "other_column"
# Which features' slopes a local estimator does not know, and those taken as they are nevertheless.
UNIDENTIFIED: Final = "unidentified"
TAKEN_WHOLE: Final = "taken_whole"
UNKNOWN_SUPPORT: Final = "unknown_support"


class Outcome(StrEnum):
    """How a partition ended, as the diagnostics have it.

    A local fit is done or did not converge in its passes. From a shared start a partition takes a few passes
    only: one that is out of them is expanded where it stands, and the sum of all is the better for it. One
    without rows, as of the sea, was not to be fitted.
    """

    FITTED = "fitted"
    NOT_CONVERGED = "not converged"
    OUT_OF_PASSES = "out of passes"
    LEFT_OUT = "left out"
    EMPTY = "no rows"


# Parts of a saved model other than the parameters: their names carry the part's name and a dot in front, so
# that a model is one flat dataset, which every format can hold.
DIAGNOSTICS: Final = "diagnostics"
LOCAL_ESTIMATES: Final = "local_estimates"
INFORMATION: Final = "information"
PARTS: Final = (DIAGNOSTICS, LOCAL_ESTIMATES, INFORMATION)
PART_SEPARATOR: Final = "."

ATTR_SCHEMA_VERSION: Final = "daskmoe_schema"
ATTR_VERSION: Final = "daskmoe_version"
ATTR_CREATED: Final = "created"
ATTR_FAMILY: Final = "family"
ATTR_ROWS: Final = "rows"
ATTR_OPTIONS: Final = "options"
ATTR_WEIGHT: Final = "weight"
