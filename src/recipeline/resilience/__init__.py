"""How outside services are asked: with a deadline, a bounded retry, a breaker, and an answer for when they are gone."""

from recipeline.resilience.breakers import Answer, Breaker, CircuitOpenError, Ladder, Ticket, Tier
from recipeline.resilience.caches import Hit, SingleFlight, StaleCache, freeze
from recipeline.resilience.endpoints import Endpoint, EndpointError
from recipeline.resilience.retries import Deadline, DeadlineExceeded, retry, without_waiting

__all__ = [
    "Deadline", "DeadlineExceeded", "retry", "without_waiting",
    "Breaker", "CircuitOpenError", "Ticket", "Ladder", "Tier", "Answer",
    "Endpoint", "EndpointError",
    "StaleCache", "Hit", "SingleFlight", "freeze",
]  # fmt: skip
