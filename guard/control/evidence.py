"""placeholder"""
from typing import Any


class Evidence:
    sessions: Any
    show: Any
    replay: Any
    search: Any
