"""The transport plan of an aggregation: which expert each partition's experts became."""

from __future__ import annotations

import html

import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.model.pieces import MAX_LINES, card_of, folded, rows_of_facts, short, table_of
from daskmoe.rows.names import EXPERT, LOCAL_EXPERT, PARTITION

_MASS = "plan_mass"
# Of a column of shares.
_WIDTH = 6


class TransportPlan:
    """Mass that the transport plan moves from the experts of partitions to those of the model.

    Parameters
    ----------
    mass : xr.DataArray
        By ``partition``, ``local_expert`` and ``expert``: E_x of lambda_m P_jk(x), whose sum is 1, where
        lambda_m is the partition's share of the rows and P_jk(x) the plan between its expert j and expert k
        of the model (arXiv:2312.09877, section 3). Zero where a partition has no such expert.

    Examples
    --------
    >>> import daskmoe
    >>> data, _ = daskmoe.simulate(2000, n_features=2, n_experts=2, random_state=0)
    >>> plan = daskmoe.fit(data, "y", n_experts=2, partitions=4, random_state=0).transport_plan()
    >>> plan.mass.dims
    ('partition', 'local_expert', 'expert')
    >>> bool(abs(plan.mass.sum() - 1) < 1e-12)
    True
    >>> dict(plan.table()["share"].sizes)
    {'partition': 4, 'expert': 2}
    """

    def __init__(self, mass: xr.DataArray) -> None:
        self.mass = mass.transpose(PARTITION, LOCAL_EXPERT, EXPERT)

    def table(self) -> xr.Dataset:
        """Where the mass of partitions and of their experts goes.

        Returns
        -------
        xr.Dataset
            ``share`` of a partition's mass that goes to each expert, by (partition, expert). By (partition,
            local_expert): ``most_to``, the expert that gets most of a local expert's mass, and
            ``most_share``, its share of that mass; empty and NaN where a partition has no such expert.
        """
        local = self.mass.sum(EXPERT)
        known = local > 0
        split = (self.mass / local.where(known)).drop_attrs()
        largest = split.fillna(0).argmax(EXPERT)
        names = self.mass[EXPERT].astype(str).isel({EXPERT: largest}).drop_vars(EXPERT)
        whole = self.mass.sum([LOCAL_EXPERT, EXPERT])
        return xr.Dataset(
            {
                "share": (self.mass.sum(LOCAL_EXPERT) / whole.where(whole > 0)).assign_attrs(
                    long_name="share of the partition's mass that goes to the expert", units="1"
                ),
                "most_to": names.where(known, "").assign_attrs(
                    long_name="expert that gets most of the local expert's mass"
                ),
                "most_share": split.max(EXPERT).assign_attrs(
                    long_name="share of the local expert's mass that this expert gets", units="1"
                ),
            }
        )

    def _title(self) -> str:
        sizes = self.mass.sizes
        return f"Transport plan: {sizes[PARTITION]} partitions to {sizes[EXPERT]} experts"

    def _facts(self, table: xr.Dataset) -> dict[str, str]:
        split = table["most_share"]
        number = int(split.notnull().sum())
        whole = int((split > 0.95).sum())
        least = split.fillna(1).argmin(...)
        m, j = (int(least[dim]) for dim in (PARTITION, LOCAL_EXPERT))
        where = f"expert {j} of partition {self.mass[PARTITION].values[m]}"
        return {
            "local experts": f"{number:,}, of which {whole:,} go to one expert by more than 95 %",
            "most divided": f"{where}, {float(split[m, j]):.0%} to {table['most_to'].values[m, j]}",
        }

    def __str__(self) -> str:
        table = self.table()
        share = table["share"]
        names = [str(name) for name in self.mass[EXPERT].values]
        width = 2 + max(_WIDTH, *map(len, names))
        lines = [self._title(), *(f"{name:<15}{text}" for name, text in self._facts(table).items()), ""]
        lines += [f"{PARTITION:<15}{''.join(f'{name:>{width}}' for name in names)}"]
        for label, row in zip(self.mass[PARTITION].values[:MAX_LINES], share.values, strict=False):
            lines.append(f"{label!s:<15}{''.join(f'{value:>{width}.1%}' for value in row)}")
        if (more := share.sizes[PARTITION] - MAX_LINES) > 0:
            lines.append(f"... and {more:,} more: see .table()")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        table = self.table()
        heads = [PARTITION, *(f"to {_cell(name)}" for name in self.mass[EXPERT].values)]
        labels = self.mass[PARTITION].values[:MAX_LINES]
        more = self.mass.sizes[PARTITION] - MAX_LINES
        rest = f"{more:,} more" if more > 0 else ""
        shares = [
            [_cell(label), *(_bar(value) for value in row)]
            for label, row in zip(labels, table["share"].values, strict=False)
        ]
        locals_ = [
            [
                _cell(label),
                *(f"{_cell(to)}, {share:.0%}" if to else "" for to, share in zip(*cells, strict=True)),
            ]
            for label, *cells in zip(
                labels, table["most_to"].values, table["most_share"].values, strict=False
            )
        ]
        inner = [PARTITION, *(f"local expert {j}" for j in range(self.mass.sizes[LOCAL_EXPERT]))]
        return card_of(
            self._title(),
            rows_of_facts(self._facts(table)),
            table_of("share of each partition's mass", heads, shares, rest),
            folded("where most of each local expert goes", table_of("", inner, locals_, rest)),
        )


def plan_from(diagnostics: xr.Dataset | None, names: list[str]) -> TransportPlan:
    """The plan that a model's diagnostics hold, with the experts' names.

    Raises
    ------
    InvalidDataError
        If they hold none.
    """
    if diagnostics is None or _MASS not in diagnostics or diagnostics[_MASS].sizes[EXPERT] != len(names):
        raise InvalidDataError(
            "Expected a model with a transport plan, got one without: daskmoe.fit and "
            "daskmoe.aggregate keep it, but for a weighted average."
        )
    return TransportPlan(diagnostics[_MASS].assign_coords({EXPERT: names}))


def _cell(label: object) -> str:
    return html.escape(short(str(label)))


def _bar(share: float) -> str:
    return f'<span class="bar" style="width:{3 * share:.2f}em"></span>{share:.1%}'
