#!/bin/sh
# Dump MLflow's database to /dump, as it is at one moment, and read the dump to its end: one that is damaged fails here.
# Settings: PGHOST, PGUSER, PGPASSWORD, PGDATABASE, as libpq reads them.
set -eu
pg_dump --format custom --compress 6 --no-owner --no-privileges --file "${DUMP_FOLDER:-/dump}/database.dump"
pg_restore --file /dev/null "${DUMP_FOLDER:-/dump}/database.dump"
