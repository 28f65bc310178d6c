"""How MLflow's interface shows an experiment of pgzoo: which charts, in which order, and which columns of the list."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["EXPERIMENT_TAGS"]


def chart(kind: str, metric: str, **more: Any) -> dict[str, Any]:
    """A chart in the form in which MLflow's interface keeps it, in the section of its metric's group."""
    card = {"type": kind, "uuid": f"pgzoo-{metric}", "metricKey": metric, "metricSectionId": section(metric)["uuid"]}
    return {**card, "isGenerated": True, "deleted": False, "runsCountToCompare": 10, **more}


def line(metric: str) -> dict[str, Any]:
    axes: dict[str, Any] = {
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
    }
    axes |= {"yAxisExpressions": [], "scaleType": "linear", "range": {}, "lineSmoothness": 0, "ignoreOutliers": False}
    return chart("LINE", metric, **axes, useGlobalXaxisKey=True, useGlobalLineSmoothing=True)


def section(metric: str) -> dict[str, Any]:
    group = metric.partition("/")[0]
    return {"uuid": f"pgzoo-{group}", "name": group, "display": True, "isReordered": True, "columns": 2}


COLUMNS = ["metrics.`summary/return_final`", "metrics.`summary/return_best`", "params.`total_steps`"]
# Show wide learning curves first and the final returns beside them. By default MLflow starts with `eval`, which may
# have a single point. MLflow appends all metrics that aren't listed here.
SHARED_VIEW = {
    "groupBy": {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": "algorithm"}],
    },
    "compareRunsMode": "CHART",
    "isAccordionReordered": True,
    "compareRunSections": [section("train/"), section("eval/"), section("summary/")],
    "compareRunCharts": [
        line("train/return_mean"),
        chart("BAR", "summary/return_final", metricSectionId="pgzoo-train", isGenerated=False),
        line("eval/return_mean"),
    ],
    "selectedColumns": COLUMNS,
    "columnOrder": COLUMNS,
    "columnWidths": dict.fromkeys(COLUMNS, 200),  # the default width truncates names with a common prefix
}
EXPERIMENT_TAGS = {
    "mlflow.sharedViewState.pgzoo": json.dumps(SHARED_VIEW),
    "mlflow.experimentKind": "custom_model_development",  # show MLflow's pages for model training, not those for GenAI
}
