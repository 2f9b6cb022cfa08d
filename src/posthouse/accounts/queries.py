"""The SQL of this room."""

from posthouse.db import named_sql

SQL = named_sql.load("posthouse.accounts")
