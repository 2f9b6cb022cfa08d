"""The SQL of the import benchmark."""

from posthouse.db import named_sql

SQL = named_sql.load("bench", "import_rate.sql")
