#!/bin/sh
# Put the dump's content in the place of the database's, in one transaction: an error leaves what was there.
# Stop MLflow before (kubectl -n mistudio-data scale deployment/mlflow --replicas 0): its connections hold locks.
set -eu
pg_restore --clean --if-exists --no-owner --no-privileges --single-transaction --exit-on-error \
  --dbname "$PGDATABASE" "${DUMP_FOLDER:-/dump}/database.dump"
echo "the database is restored"
