"""Searches the history of a log's clients for transaction anomalies."""

from counterfoil.proof.anomalies.checker import KINDS, Anomaly, Verdict, check
from counterfoil.proof.anomalies.history import History, Place, Poll, Send, Transaction

__all__ = [
    "KINDS",
    "Anomaly",
    "History",
    "Place",
    "Poll",
    "Send",
    "Transaction",
    "Verdict",
    "check",
]
