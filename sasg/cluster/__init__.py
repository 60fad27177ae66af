"""Where workers live: what is exchanged, what it costs, who receives it."""

from sasg.cluster.accounting.ledger import Ledger
from sasg.cluster.accounting.value_codes import IntegerLevelCode, LevelCode, ValueCode
from sasg.cluster.cluster import Cluster, Server, Uploads, sum_of_values
from sasg.cluster.payload import Payload, Segment
from sasg.cluster.reply import Coded, Compressed, Nothing, Positions, Reply, Update, Values
from sasg.cluster.simulated import SimulatedCluster

__all__ = [
    "Cluster",
    "Coded",
    "Compressed",
    "IntegerLevelCode",
    "Ledger",
    "LevelCode",
    "Nothing",
    "Payload",
    "Positions",
    "Reply",
    "Segment",
    "Server",
    "SimulatedCluster",
    "Update",
    "Uploads",
    "ValueCode",
    "Values",
    "sum_of_values",
]
