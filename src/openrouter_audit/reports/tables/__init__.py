"""Where projected rows stand: one module per database, each writing its own SQL in its own way."""
